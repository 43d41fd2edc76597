"""Calls that come by gRPC."""
