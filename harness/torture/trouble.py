"""Random failures of the provider, and how a turn must end after them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metamorph_client.chat.v1 import turn_pb2
from metamorph_client.chat.v1.message_pb2 import Usage
from metamorphd.catalog import FRAME_TOKENS
from metamorphd.llm.claude import LONGEST_RETRY_WAIT

from tests.support.fakes.replies import Behaviour, Hangup, Refusal, Reply, Silence, thinking

MAX_RETRIES = 2
TURN_SECONDS = 9.0
# Never silent for long, but longer than a turn may last.
SLOW_WORDS, SLOW_SECONDS = 44, 0.25
THOUGHT, SIGNATURE = "It is a greeting.", "signature"
THINKING_BYTES = len(THOUGHT) + len(SIGNATURE)
COMPLETED, CANCELLED = turn_pb2.TURN_STATUS_COMPLETED, turn_pb2.TURN_STATUS_CANCELLED
RETRIED = {
    Refusal(429, "rate_limit_error"): "UPSTREAM_RATE_LIMITED",
    Refusal(529, "overloaded_error"): "UPSTREAM_OVERLOADED",
    Refusal(500, "api_error"): "UPSTREAM_UNAVAILABLE",
    Refusal(502, "api_error"): "UPSTREAM_UNAVAILABLE",
    Refusal(503, "api_error"): "UPSTREAM_UNAVAILABLE",
    Refusal(409, "conflict_error"): "UPSTREAM_UNAVAILABLE",
}
FINAL = {
    Refusal(400, "invalid_request_error"): "UPSTREAM_REJECTED",
    Refusal(401, "authentication_error"): "UPSTREAM_UNAUTHENTICATED",
    Refusal(402, "billing_error"): "UPSTREAM_SPEND_LIMIT",
    Refusal(403, "permission_error"): "UPSTREAM_UNAUTHENTICATED",
    Refusal(404, "not_found_error"): "UPSTREAM_REJECTED",
    Refusal(413, "request_too_large"): "UPSTREAM_REJECTED",
}
# Looks like a rate limit and is retried like one, but has no `retry-after`.
SPENT = Refusal(429, "rate_limit_error", error_code="enforced_spend_limit_reached")
REASONS = RETRIED | FINAL | {SPENT: "UPSTREAM_SPEND_LIMIT"}
ENDINGS = {
    ("stop", ""): "",
    ("drop", ""): "UPSTREAM_INTERRUPTED",
    ("tear", ""): "UPSTREAM_INTERRUPTED",
    ("truncate", ""): "UPSTREAM_INTERRUPTED",
    ("garbage", ""): "UPSTREAM_INTERRUPTED",
    ("stall", ""): "UPSTREAM_STALLED",
    ("error", "api_error"): "UPSTREAM_INTERRUPTED",
    ("error", "overloaded_error"): "UPSTREAM_OVERLOADED",
    ("error", "rate_limit_error"): "UPSTREAM_RATE_LIMITED",
}


@dataclass(frozen=True)
class Used:
    """Possible usage of a call: the input that the provider has reported, and from `least` to `most` output tokens.

    `received` is the upper estimate of the output, had the call been cancelled. An unanswered one counts its prompt.
    """

    input_tokens: int = 0
    least: int = 0
    most: int = 0
    received: int = 0
    answered: bool = True

    def allows(self, usage: Usage) -> bool:
        """Returns whether this is the usage of a turn that ended by itself."""
        if not self.answered:
            return usage.estimated and usage.input_tokens > FRAME_TOKENS and not usage.output_tokens
        return usage.input_tokens == self.input_tokens and self.least <= usage.output_tokens <= self.most

    def allows_cancelled(self, usage: Usage) -> bool:
        """Returns whether this is the usage of a turn that was cancelled, perhaps before its call was answered."""
        unanswered = replace(self, answered=False).allows(usage)
        return (
            usage == Usage() or unanswered or replace(self, least=1, most=max(self.most, self.received)).allows(usage)
        )


@dataclass(frozen=True)
class End:
    """How a turn must end: after so many requests, for this reason (empty if it completes), with text and usage."""

    requests: int
    reason: str
    retry_delay: float | None = None
    text: str = ""
    usage: "Used" = Used()


@dataclass(frozen=True)
class Trouble:
    """The provider's answers, request by request; further requests get the last one.

    The turn is cancelled after so many seconds, if it still runs.
    """

    answers: tuple[Behaviour, ...]
    cancelled_after: float | None

    @property
    def end(self) -> End:
        """How the turn ends if it is not cancelled."""
        for count, answer in enumerate(self.answers, start=1):
            end = _end(answer, count)
            if end is not None:
                return end
        raise AssertionError("the last answer is final")


def draw(source: random.Random) -> Trouble:
    """Draws any trouble."""
    answers: list[Behaviour] = [_before_reply(source) for _ in range(MAX_RETRIES)]
    answers.append(_reply(source))
    begin = source.choices(range(MAX_RETRIES + 1), weights=(3, 2, 7))[0]
    drawn = (*answers[begin:], *(_before_reply(source) for _ in range(begin)))
    return Trouble(drawn, source.uniform(0, 0.4) if source.random() < 0.3 else None)


def _before_reply(source: random.Random) -> Behaviour:
    kind = source.random()
    if kind < 0.2:
        return Hangup()
    if kind < 0.25:
        return Silence()
    if kind < 0.4:
        return source.choice(list(FINAL))
    if kind < 0.45:
        return SPENT
    headers = source.choices(
        [
            (),
            (("retry-after-ms", str(source.randint(1, 300))),),
            (("retry-after", "1"),),
            (("retry-after", str(source.randint(21, 9999))),),
            # The turn's own limit comes before the end of this wait.
            (("retry-after", "15"),),
        ],
        weights=(4, 6, 1, 2, 0.2),
    )[0]
    return replace(source.choice(list(RETRIED)), headers=headers)


def _reply(source: random.Random) -> Reply:
    ending, error_type = source.choices(list(ENDINGS), weights=(8, *[1] * (len(ENDINGS) - 1)))[0]
    slow = source.random() < 0.01
    words = [f"word{number} " for number in range(SLOW_WORDS if slow else source.randint(0, 12))]
    thoughts = [thinking(THOUGHT, SIGNATURE)] if source.random() < 0.2 else []
    return Reply(
        (*thoughts, *words),
        ending=ending,
        error_type=error_type,
        delay=SLOW_SECONDS if slow else source.choice([0, 0.002, 0.02]),
        uneven=not slow,
        usage={"input_tokens": source.randint(1, 10_000), "cache_read_input_tokens": source.randint(0, 100)},
    )


def _end(answer: Behaviour, requests: int) -> End | None:
    """How the answer to this request ends the turn; None if the call is repeated."""
    match answer:
        case Reply():
            return _end_of_reply(answer, requests)
        case Silence():
            return End(requests, "UPSTREAM_STALLED")
        case Hangup():
            return End(requests, "UPSTREAM_UNAVAILABLE") if requests > MAX_RETRIES else None
        case Refusal():
            kind, wait = replace(answer, headers=()), _wait(answer.headers)
            if kind in FINAL or requests > MAX_RETRIES or (wait or 0) > LONGEST_RETRY_WAIT:
                return End(requests, REASONS[kind], wait)
            if (wait or 0) > TURN_SECONDS:
                return End(requests, "TURN_TIMEOUT", usage=Used(answered=False))
            return None
    raise AssertionError(answer)


def _end_of_reply(reply: Reply, requests: int) -> End:
    read = reply.usage["input_tokens"]
    # A token for each byte of the text, of the thinking and of its signature.
    received = sum(len(chunk) if isinstance(chunk, str) else THINKING_BYTES for chunk in reply.chunks)
    most = max(1, received)
    text = "".join(chunk for chunk in reply.chunks if isinstance(chunk, str))
    if reply.delay * len(reply.chunks) > TURN_SECONDS:
        return End(requests, "TURN_TIMEOUT", text=text, usage=Used(read, 1, most, most))
    count = len(reply.chunks)
    used = Used(read, count, count, most) if reply.ending == "stop" else Used(read, most, most, most)
    return End(requests, ENDINGS[reply.ending, reply.error_type if reply.ending == "error" else ""], None, text, used)


def _wait(headers: Sequence[tuple[str, str]]) -> float | None:
    for name, value in headers:
        return float(value) / (1000 if name == "retry-after-ms" else 1)
    return None
