"""What an honest-but-curious edge recovers: attacks that must succeed where they should, and their report."""
