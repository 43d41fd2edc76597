"""Converts usage to protobuf."""

from metamorph.chat.v1 import message_pb2

from metamorphd.models.usage import Usage


def usage_to_proto(usage: Usage) -> message_pb2.Usage:
    """Returns token counts and their cost."""
    return message_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost_usd_nanos=usage.cost_usd_nanos,
        estimated=usage.estimated,
    )
