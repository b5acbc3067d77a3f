"""A client of ELSA without torch: it keeps the first and last blocks of a BERT in NumPy and trains through an edge.

It proves that the API suffices for a client in any language: all that it knows of ELSA is the protos (`elsa.v1`),
what their comments say, and the run's specification, which is YAML. Its model and tokenizer come from the edge. For
how to run it see `__main__.py`. It does one run with one edge, has one micro-batch in flight, and knows BERT, LoRA
and the codecs none, bf16 and int8; it refuses what it cannot do. It neither takes a broken stream up again nor moves
to another edge, which a client may do and need not.

    words.py    texts as numbers: BERT's own tokenizer, from the file that the edge sends
    rows.py     a site's rows, in batches
    bert.py     embeddings, blocks and head, forward and backward, LoRA and AdamW
    wire.py     tensors, chunks, codecs and adapters as bytes
    peers.py    the calls: streams to the edge, adapters, weights
    cloud.py    the link to the cloud: registered, alive, told what to do
    member.py   a run: can we do what it asks, with what rows, at which edge
    rounds.py   its rounds: pull, evaluate, train, push
"""
