"""A site's data: rows from files, examples from rows, batches from examples, shards for many clients."""
