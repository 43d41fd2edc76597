"""Converts times and durations to protobuf and back."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(microseconds: int | None) -> Timestamp | None:
    """Returns microseconds since the epoch as a Timestamp."""
    if microseconds is None:
        return None
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def set_timestamp(proto: Timestamp, microseconds: int) -> None:
    """Sets a Timestamp in place, in half the time of `timestamp` and a copy."""
    proto.seconds, remainder = divmod(microseconds, 1_000_000)
    proto.nanos = remainder * 1000


def microseconds(time: Timestamp) -> int:
    """Returns a Timestamp as microseconds since the epoch."""
    return time.seconds * 1_000_000 + time.nanos // 1000


def duration(microseconds: int) -> Duration:
    """Returns microseconds as a Duration."""
    return Duration(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)
