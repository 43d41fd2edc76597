"""Converts models to protobuf and back, by noun."""
