"""The memory that large requests share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from metamorphd.errors import BytesInFlightExceeded
from metamorphd.in_flight import BytesInFlight


@pytest.fixture
def shared() -> BytesInFlight:
    return BytesInFlight(total=100, per_vault=60)


def test_a_vault_has_a_share_of_the_whole(shared: BytesInFlight) -> None:
    first, second, other = shared.hold("a"), shared.hold("a"), shared.hold("b")
    first.resize(40)
    with pytest.raises(BytesInFlightExceeded) as refusal:
        second.resize(21)
    assert (refusal.value.metadata, refusal.value.retry_delay) == ({"limit_bytes": "60"}, 1.0)
    second.resize(20)
    with pytest.raises(BytesInFlightExceeded) as refusal:
        other.resize(41)
    assert refusal.value.metadata == {"limit_bytes": "100"}
    other.resize(40)
    assert shared.used == 100
    # Not a byte more.
    for hold, size in ((second, 21), (other, 41)):
        with pytest.raises(BytesInFlightExceeded):
            hold.resize(size)
    first.resize(10)
    assert shared.used == 70


def test_a_share_can_be_released_more_than_once(shared: BytesInFlight) -> None:
    hold = shared.hold("a")
    hold.resize(50)
    hold.release()
    hold.release()
    assert shared.used == 0


async def test_a_reservation_waits_for_memory_of_its_vault_and_lets_others_pass(shared: BytesInFlight) -> None:
    order = []
    free = asyncio.Event()

    async def use(vault_id: str, size: int, *, hold: bool = False) -> None:
        async with shared.reserved(vault_id, size):
            order.append((vault_id, size))
            if hold:
                await free.wait()

    running = [asyncio.create_task(use("a", 50, hold=True))]
    await asyncio.sleep(0)
    running += [asyncio.create_task(use(vault, size)) for vault, size in (("a", 30), ("a", 31), ("b", 40))]
    await asyncio.sleep(0.01)
    assert order == [("a", 50), ("b", 40)]
    free.set()
    await asyncio.gather(*running)
    assert order == [("a", 50), ("b", 40), ("a", 30), ("a", 31)]
    assert shared.used == 0


async def test_one_that_no_longer_waits_takes_nothing(shared: BytesInFlight) -> None:
    @asynccontextmanager
    async def waiting(count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
        async def use() -> None:
            async with shared.reserved("a", 60):
                await asyncio.Event().wait()

        async with shared.reserved("a", 1):
            tasks = [asyncio.create_task(use()) for _ in range(count)]
            await asyncio.sleep(0.01)
            yield tasks

    async with waiting(2) as (first, second):
        first.cancel()
    await asyncio.sleep(0.01)
    assert (shared.used, first.cancelled(), second.done()) == (60, True, False)
    second.cancel()
    await asyncio.sleep(0.01)
    assert shared.used == 0


async def test_more_than_a_vault_may_have_counts_as_all_of_it(shared: BytesInFlight) -> None:
    async with shared.reserved("a", 1000):
        assert shared.used == 60
