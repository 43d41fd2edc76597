"""Streams that are refused end some at a time."""

import asyncio
from collections import Counter

from metamorphd.edge.endings import STEP_CHECKS, STEP_ENDS, Endings
from metamorphd.errors import DomainError, TokenRevoked

SECONDS = 20


class Ended:
    """A stream that records when it was ended, by the beats of the event loop."""

    def __init__(self, beats: Counter[str], *, refused: bool = True) -> None:
        self._beats = beats
        self.refused = refused
        self.errors: list[DomainError] = []
        self.beat = 0

    def end(self, error: DomainError) -> None:
        self.errors.append(error)
        self.beat = self._beats["now"]


def refusal_of(stream: Ended) -> DomainError | None:
    return TokenRevoked("jti is revoked") if stream.refused else None


async def settled(beats: Counter[str], streams: list[Ended]) -> None:
    """Returns once all that are refused have ended. Others do something between any two steps of the loop."""
    async with asyncio.timeout(SECONDS):
        while not all(stream.errors for stream in streams if stream.refused):
            beats["now"] += 1
            await asyncio.sleep(0)


async def test_few_end_together_and_others_run_in_between() -> None:
    beats = Counter[str]()
    streams = [Ended(beats) for _ in range(20)]
    Endings(refusal_of=refusal_of).check(streams)
    await settled(beats, streams)
    together = Counter(stream.beat for stream in streams)
    assert max(together.values()) == STEP_ENDS
    assert [len(stream.errors) for stream in streams] == [1] * 20


async def test_all_that_are_refused_end_however_many_there_are() -> None:
    beats = Counter[str]()
    streams = [Ended(beats, refused=number % 500 == 0) for number in range(10 * STEP_CHECKS)]
    endings = Endings(refusal_of=refusal_of)
    endings.check(streams)
    endings.check(streams)
    await settled(beats, streams)
    assert [len(stream.errors) for stream in streams] == [int(stream.refused) for stream in streams]


async def test_one_that_is_refused_later_than_it_was_checked_ends_too() -> None:
    beats = Counter[str]()
    first, later = Ended(beats), Ended(beats, refused=False)
    endings = Endings(refusal_of=refusal_of)
    endings.check([first, later])
    later.refused = True
    endings.check([first, later])
    await settled(beats, [first, later])


async def test_one_that_has_ended_by_itself_is_left_alone() -> None:
    beats = Counter[str]()
    streams = [Ended(beats) for _ in range(5 * STEP_ENDS)]
    endings = Endings(refusal_of=refusal_of)
    endings.check(streams)
    gone = streams.pop()
    endings.remove(gone)
    await settled(beats, streams)
    assert gone.errors == []
