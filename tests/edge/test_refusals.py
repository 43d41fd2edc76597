"""What is recorded of refusals, however many there are."""

from collections.abc import Mapping
from typing import Any

import pytest
from metamorphd.edge import repeated
from metamorphd.edge.refusals import Refusals
from metamorphd.edge.repeated import COUNT_SECONDS, EACH, EACH_WINDOW_SECONDS
from metamorphd.errors import StoreBusy
from metamorphd.models.caller import Scope

from tests.support.rows import ACME, scope_of


class Log:
    """Keeps what is recorded. Raises instead while `failing`."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Mapping[str, str]]] = []
        self.failing = False

    async def record(self, scope: Scope, *, details: Mapping[str, str] | None = None, **_: Any) -> None:
        if self.failing:
            raise StoreBusy(retry_delay=1.0)
        self.entries.append((scope.vault_id, details or {}))


class Now:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def refuse(made: Refusals, scope: Scope = ACME) -> None:
    await made.record(scope, method="m", permission="p")


async def test_a_burst_has_an_entry_each_and_later_ones_come_back_with_time() -> None:
    log, now = Log(), Now()
    made = Refusals(recorder=log, now=now)
    for _ in range(EACH + 7):
        await refuse(made)
    assert len(log.entries) == EACH
    now.seconds = 2.5 * EACH_WINDOW_SECONDS / EACH
    for _ in range(7):
        await refuse(made)
    assert len(log.entries) == EACH + 2


async def test_counts_are_recorded_once_an_hour() -> None:
    log, now = Log(), Now()
    made = Refusals(recorder=log, now=now)
    for _ in range(EACH + 7):
        await refuse(made)
    await made.work()
    assert len(log.entries) == EACH
    now.seconds = COUNT_SECONDS
    for _ in range(3):
        await made.work()
    assert log.entries[EACH:] == [("acme", {"count": "7"})]


async def test_counts_that_cannot_be_recorded_are_kept() -> None:
    log = Log()
    made = Refusals(recorder=log, now=Now())
    for _ in range(EACH + 7):
        await refuse(made)
    log.failing = True
    with pytest.raises(StoreBusy):
        await made.flush()
    log.failing = False
    await refuse(made)
    await made.flush()
    assert log.entries[EACH:] == [("acme", {"count": "8"})]


async def test_each_user_has_a_rate_of_their_own_and_too_many_are_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeated, "COUNTED_KEYS", 2)
    log = Log()
    made = Refusals(recorder=log, now=Now())
    for vault in ("a", "b", "c", "d"):
        for _ in range(EACH + 1):
            await refuse(made, scope_of(vault))
    assert len(log.entries) == 4 * EACH
    await made.flush()
    assert log.entries[4 * EACH :] == [("a", {"count": "1"}), ("b", {"count": "1"}), ("-server", {"count": "2"})]
