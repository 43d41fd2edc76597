"""Models to protobuf and back, by noun."""
