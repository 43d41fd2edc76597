"""What is said of a turn after its reply."""

from metamorph_client.chat.v1.message_pb2 import Usage
from metamorph_client.chat.v1.turn_pb2 import (
    STOP_REASON_CONTEXT_EXCEEDED,
    STOP_REASON_MAX_TOKENS,
    STOP_REASON_PAUSE,
    STOP_REASON_REFUSAL,
    TURN_STATUS_COMPLETED,
    TurnFinished,
    TurnStatus,
)

STOP_REASONS = {
    STOP_REASON_MAX_TOKENS: "The reply was cut off: it has as many tokens as it may",
    STOP_REASON_CONTEXT_EXCEEDED: "The reply was cut off: the model's context is full",
    STOP_REASON_PAUSE: "The model paused. Send a message to go on",
    STOP_REASON_REFUSAL: "The model declined to reply",
}
SHOWN_NANOS = 100_000


def notes_on(finished: TurnFinished) -> list[str]:
    """Returns what a turn cost, and why it ended if that is not the reply's end."""
    notes = [cost(finished.usage)]
    if finished.status != TURN_STATUS_COMPLETED:
        status = TurnStatus.Name(finished.status).removeprefix("TURN_STATUS_")
        # A cancelled turn has no error.
        error = f": {finished.error.reason}: {finished.error.message}" if finished.HasField("error") else ""
        notes.append(f"{status}{error}")
    elif finished.stop_reason in STOP_REASONS:
        details = [finished.stop_details.category, finished.stop_details.explanation]
        notes.append(": ".join([STOP_REASONS[finished.stop_reason], *filter(None, details)]))
    return notes


def cost(usage: Usage) -> str:
    """Returns a line about what was used and its price."""
    cached = f", {usage.cache_read_tokens} read from cache" if usage.cache_read_tokens else ""
    written = f", {usage.cache_write_tokens} written to cache" if usage.cache_write_tokens else ""
    price = f", {_dollars(usage.cost_usd_nanos)}" if usage.cost_usd_nanos else ""
    counts = f"{usage.input_tokens} tokens in, {usage.output_tokens} out{cached}{written}{price}"
    return f"At most {counts} (estimated)" if usage.estimated else counts


def _dollars(nanos: int) -> str:
    return f"${nanos / 1e9:.4f}" if nanos >= SHOWN_NANOS else f"less than ${SHOWN_NANOS / 1e9:.4f}"
