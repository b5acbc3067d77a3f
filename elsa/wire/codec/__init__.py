"""How the tensors of a step are encoded for the wire: one module a codec, one registry."""
