"""The pace at which replies are read while many turns run."""

import asyncio

import pytest
from metamorphd.chat import pace
from metamorphd.chat.pace import UNPACED_TURNS, Pace


@pytest.mark.parametrize("running", [0, 1, UNPACED_TURNS])
async def test_few_turns_have_no_pace(running: int) -> None:
    event = asyncio.Event()
    assert not Pace(running_turns=lambda: running).wake(event)
    assert not event.is_set()


async def test_turns_that_wait_are_woken_together_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PACE_SECONDS", 0.03)
    paced = Pace(running_turns=lambda: UNPACED_TURNS + 1)
    for _ in range(2):
        events = [asyncio.Event() for _ in range(3)]
        assert [paced.wake(event) for event in events] == [True] * 3
        await events[0].wait()
        assert [event.is_set() for event in events] == [True] * 3


async def test_all_that_wait_share_a_timer_whose_interval_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda seconds, _: timers.append(seconds), raising=False)
    paced = Pace(running_turns=lambda: UNPACED_TURNS + 2)
    for _ in range(5):
        paced.wake(asyncio.Event())
    (seconds,) = timers
    assert 0 < seconds <= 2 * pace.PACE_SECONDS
    crowded = Pace(running_turns=lambda: 10_000)
    crowded.wake(asyncio.Event())
    assert 0 < timers[-1] <= pace.LONGEST_PACE
