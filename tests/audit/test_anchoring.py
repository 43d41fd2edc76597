"""The heads of logs in the log stream."""

from pathlib import Path
from typing import Any

import pytest
from metamorphd.audit import anchoring
from metamorphd.audit.anchoring import Anchoring
from metamorphd.audit.stamping import NoStamping
from metamorphd.clock import Clock
from metamorphd.keys.audit import make_chain
from metamorphd.store.database import Database
from structlog.testing import capture_logs

from tests.support.engines import Engine
from tests.support.rows import new_session, scope_of

MINUTE = 60_000_000


class Later(Clock):
    """The time, some of it ahead."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


async def heads(made: Anchoring) -> list[tuple[str, int]]:
    """Returns what a round writes."""
    with capture_logs() as lines:
        await made.work()
    return [(head[0], head[1]) for line in lines for head in line["heads"]]


async def touch(database: Database, clock: Clock, *vaults: str) -> None:
    for vault in vaults:
        await new_session(database, scope_of(vault), now=clock.now())


async def test_what_is_new_is_written_once_and_no_more_often_than_the_interval(engine: Engine, tmp_path: Path) -> None:
    clock = Later()
    async with engine.database(tmp_path, chain=make_chain(["k" * 32])) as database:
        made = Anchoring(database=database, clock=clock, stamping=NoStamping())
        await touch(database, clock, "a", "b")
        assert await heads(made) == [("a", 2), ("b", 2)]
        await touch(database, clock, "a")
        assert await heads(made) == []
        clock.ahead = 11 * MINUTE
        await touch(database, clock, "b")
        assert await heads(made) == [("a", 3), ("b", 3)]
        clock.ahead = 22 * MINUTE
        assert await heads(made) == [("b", 3)]
        clock.ahead = 33 * MINUTE
        assert await heads(made) == []


async def test_a_round_is_bounded_and_the_next_one_goes_on(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, Any] = {"PAGE_LOGS": 2, "ROUND_HEADS": 4, "LINE_HEADS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(anchoring, name, value)
    clock = Later()
    vaults = [f"vault-{number}" for number in range(7)]
    async with engine.database(tmp_path, chain=make_chain(["k" * 32])) as database:
        made = Anchoring(database=database, clock=clock, stamping=NoStamping())
        await touch(database, clock, *vaults)
        written = await heads(made)
        assert [vault for vault, _ in written] == vaults[:4]
        clock.ahead = 11 * MINUTE
        written = await heads(made)
        assert [vault for vault, _ in written] == vaults[4:]


async def test_without_a_key_nothing_is_written(database: Database) -> None:
    clock = Later()
    await touch(database, clock, "a")
    assert await heads(Anchoring(database=database, clock=clock, stamping=NoStamping())) == []
