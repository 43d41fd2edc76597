"""The span of a turn, which lasts as long as the turn, with or without the call that began it."""

from metamorphd.models.span import Span, SpanKind
from metamorphd.models.turn import Turn, TurnFinished
from metamorphd.telemetry import names
from metamorphd.telemetry.attributes import of_usage


def begin_turn(span: Span, turn: Turn) -> Span:
    """Begins the span of a turn within that of a call."""
    if not span.recorded:
        return span
    return span.child(
        names.INVOKE_AGENT,
        kind=SpanKind.INTERNAL,
        attributes={
            names.GEN_AI_OPERATION: names.INVOKE_AGENT,
            names.GEN_AI_CONVERSATION: turn.session_id,
            names.GEN_AI_MODEL: turn.model,
            names.TURN_ID: turn.turn_id,
        },
    )


def end_turn(span: Span, finished: TurnFinished | None) -> None:
    """Ends the span of a turn. It has no status if it was ended or deleted elsewhere."""
    if span.recorded and finished is not None:
        span.describe({names.TURN_STATUS: finished.status})
        if not finished.usage.estimated:
            span.describe(of_usage(finished.usage))
    span.end(error="" if finished is None or finished.error is None else finished.error.reason)
