"""Which calls are recorded: a share of all, and those whose callers ask for it, up to a rate."""

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
# Traces per second that are recorded because a caller has decided so. Any caller can ask for it with every call, and
# recording takes time and memory from the other callers.
MOST_ASKED_FOR = 10.0
SAMPLED = 0x01
# https://www.w3.org/TR/trace-context/#tracestate-limits: what is longer need not be passed on.
LONGEST_STATE = 512
# https://www.w3.org/TR/trace-context/#traceparent-header: ff is no version, and ids of zeros are none. Later versions
# than 00 may have more fields.
_TRACEPARENT = re.compile(
    r"(?!ff)(?:00|(?P<later>(?!00)[0-9a-f]{2}))-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})"
    r"(?(later)(?:-.{0,256})?)"
)


@dataclass(frozen=True, slots=True)
class Parent:
    """The span of the caller that a call is a part of, as the W3C headers have it, and whether it is recorded.

    Those that are not recorded are all the same one.
    """

    headers: dict[str, list[str]]
    sampled: bool


# The most frequent one, of which nothing else matters.
NOT_SAMPLED = Parent({}, sampled=False)


def parent_in(headers: Sequence[tuple[str, str | bytes]]) -> Parent | None:
    """Returns the caller's span, or None if there is none or the headers are not valid, which is the same.

    `headers` are `traceparent` and `tracestate`.
    """
    parents: list[str | bytes] = []
    states: list[str] = []
    for key, value in headers:
        if key == TRACEPARENT:
            parents.append(value)
        elif isinstance(value, str):
            states.append(value)
    if len(parents) != 1 or not isinstance(parents[0], str) or (match := _TRACEPARENT.fullmatch(parents[0])) is None:
        return None
    if not int(match["flags"], 16) & SAMPLED:
        return NOT_SAMPLED
    if len(",".join(states)) > LONGEST_STATE:
        states = []
    return Parent({TRACEPARENT: [parents[0]], TRACESTATE: states}, sampled=True)


class Sampling:
    """Decides which calls are recorded: as their callers have, within MOST_ASKED_FOR, and otherwise a `share`.

    A call that its caller does not record is not recorded here either, since it would be a part of nothing.
    """

    def __init__(
        self, share: float, *, chance: Callable[[], float] = random.random, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = share
        self._chance = chance
        self._now = now
        self._left = MOST_ASKED_FOR
        self._filled = now()

    def records(self, parent: Parent | None) -> bool:
        """Returns whether to record a call. Not by its trace id, which the caller may have chosen for that."""
        if parent is None:
            return self._chance() < self._share
        return parent.sampled and (self._granted() or self._chance() < self._share)

    def _granted(self) -> bool:
        now = self._now()
        self._left = min(MOST_ASKED_FOR, self._left + (now - self._filled) * MOST_ASKED_FOR)
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
