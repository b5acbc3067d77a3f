"""ELSA: hierarchical split fine-tuning of language models. The library: no sockets, no gRPC."""
