"""A client of ELSA without torch: it keeps the first and last blocks of a BERT in NumPy and trains through an edge.

It proves that the API suffices for a client in any language: all that it knows of ELSA is the protos (`elsa.v1`),
what their comments say, and the run's specification, which is YAML. Its model and tokenizer come from the edge. For
how to run it see `__main__.py`.

    words.py    texts as numbers: BERT's own tokenizer, from the file that the edge sends
    rows.py     a site's rows, in batches
    bert.py     embeddings, blocks and head, forward and backward, LoRA and AdamW
    wire.py     tensors, chunks, codecs and adapters as bytes
    peers.py    the calls: streams to the edge, adapters, weights
    cloud.py    the link to the cloud: registered, alive, told what to do
    member.py   what a client does in a run, from its offer to its last evaluation
"""
