"""What travels: chunks, tensors, codecs and adapters, to and from their protobuf messages, checked."""
