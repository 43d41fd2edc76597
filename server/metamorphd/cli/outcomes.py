"""The lines about a turn that follow its reply."""

from metamorph_client.chat.v1.message_pb2 import Usage
from metamorph_client.chat.v1.turn_pb2 import (
    STOP_REASON_CONTEXT_EXCEEDED,
    STOP_REASON_MAX_TOKENS,
    STOP_REASON_PAUSE,
    STOP_REASON_REFUSAL,
    STOP_REASON_TOOL_USE,
    TURN_STATUS_COMPLETED,
    TurnEvent,
    TurnFinished,
    TurnStatus,
)

from metamorphd.cli.money import dollars
from metamorphd.models.counted import counted

STOP_REASONS = {
    STOP_REASON_MAX_TOKENS: "The reply was cut off: it has as many tokens as it may",
    STOP_REASON_CONTEXT_EXCEEDED: "The reply was cut off: the model's context is full",
    STOP_REASON_PAUSE: "The model paused. Send a message to go on",
    STOP_REASON_REFUSAL: "The model declined to reply",
    STOP_REASON_TOOL_USE: "The model waits for what a tool returns. Only the program that offers the tool can go on;"
    " /regenerate asks again, /new begins another session",
}
# More than a wide terminal has in a row.
SHOWN_CHARACTERS = 500


def note_on(event: TurnEvent) -> str:
    """Returns a line about an event that is not of the reply's text or of its thinking, or nothing for others."""
    match event.WhichOneof("event"):
        case "tool_use":
            return _line(f"Tool {event.tool_use.name}", event.tool_use.input)
        case "tool_result":
            result = event.tool_result
            return _line("Tool failed:" if result.is_error else "Tool returned:", result.text)
        case "memories_recalled":
            return f"Recalled {counted(len(event.memories_recalled.memory_ids), 'memory', 'memories')}"
        case "compaction":
            return "The conversation so far was summarized"
    return ""


def _line(what: str, text: str) -> str:
    return f"{what} {' '.join(text[:SHOWN_CHARACTERS].split())}"


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
    cached = f", {usage.cache_read_tokens:,} read from cache" if usage.cache_read_tokens else ""
    written = f", {usage.cache_write_tokens:,} written to cache" if usage.cache_write_tokens else ""
    price = f", {dollars(usage.cost_usd_nanos)}" if usage.cost_usd_nanos else ""
    counts = f"{counted(usage.input_tokens, 'token')} in, {usage.output_tokens:,} out{cached}{written}{price}"
    return f"At most {counts} (estimated)" if usage.estimated else counts
