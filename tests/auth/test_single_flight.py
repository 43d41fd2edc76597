"""One call at a time for each key."""

import asyncio

from metamorphd.auth.single_flight import SingleFlight


async def test_a_call_that_has_just_ended_is_made_again() -> None:
    flight, calls = SingleFlight[int](), 0
    answers: list[asyncio.Task[int]] = []
    moment = asyncio.Event()

    async def call() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            # After the end of this call, and before the callbacks of its end.
            asyncio.get_running_loop().call_soon(ask_at_once)
        return calls

    def ask_at_once() -> None:
        # A caller in a loop that did not wait here would never let anyone else run.
        waiting = flight.do("key", call)
        waiting.send(None)
        waiting.close()
        moment.set()

    assert await flight.do("key", call) == 1
    await moment.wait()
    answers = [asyncio.create_task(flight.do("key", call)) for _ in range(3)]
    assert len(set(await asyncio.gather(*answers))) == 1
    await flight.close()
