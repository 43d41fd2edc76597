"""What a verification of logs finds, and what it cannot find."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorphd.audit.verification import Position, Verification
from metamorphd.chain import Chain
from metamorphd.keys.audit import make_chain
from metamorphd.models import audit
from metamorphd.models.audit import AuditFaultKind, AuditReport, LogHead
from metamorphd.models.caller import server_scope
from metamorphd.store.compaction import delete_entries

from tests.support.engines import Engine
from tests.support.forged import ANCHORED, DELETED, ENTRIES, FORGERIES, KEY, VAULTS, Logs, forgeable, truncated
from tests.support.rows import ACME, new_session, scope_of


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[Logs]:
    async with forgeable(tmp_path) as made:
        yield made


async def all_of(verification: Verification, position: Position = Position()) -> list[AuditReport]:  # noqa: B008
    return [report async for report, _ in verification.verify(server_scope(), position)]


def kinds(report: AuditReport) -> set[AuditFaultKind]:
    return {fault.kind for fault in report.faults}


@pytest.mark.parametrize("name", FORGERIES)
async def test_every_alteration_is_found(logs: Logs, name: str) -> None:
    randomness, found = random.Random(name), 0  # noqa: S311, repeatable
    while found < 25:
        outcome = await logs.found(randomness.choice(VAULTS), FORGERIES[name], randomness)
        assert outcome is not False
        found += outcome is True
    for vault in VAULTS:
        assert (await logs.verified(vault)).faults == []


async def test_what_is_cut_off_after_the_last_anchor_cannot_be_found(logs: Logs) -> None:
    log = await logs.read("acme")
    await logs.write("acme", log[: ANCHORED - DELETED])
    assert (await logs.verified("acme")).faults == []
    await logs.write("acme", log[: ANCHORED - DELETED - 1])
    assert kinds(await logs.verified("acme")) == {AuditFaultKind.TRUNCATED}
    assert not truncated.__doc__ or "nobody can find" in truncated.__doc__


async def test_what_the_server_deleted_because_of_its_age_is_no_fault_and_nobody_else_can_say_so(logs: Logs) -> None:
    log = await logs.read("acme")
    assert log[0]["revision"] == DELETED + 1
    assert (await logs.verified("acme")).entry_count == ENTRIES - DELETED
    await logs.write("acme", log[3:])
    assert kinds(await logs.verified("acme")) == {AuditFaultKind.MISSING}
    gone = log[2]
    await logs.cut("acme", deleted_revision=gone["revision"], deleted_mac=gone["mac"])
    assert kinds(await logs.verified("acme")) == {AuditFaultKind.BEGINNING}
    await logs.cut("acme", deleted_revision=gone["revision"], deleted_mac=b"", seal=b"")
    assert kinds(await logs.verified("acme")) == {AuditFaultKind.CHANGED}


async def test_an_anchor_of_what_the_server_has_deleted_is_no_fault(logs: Logs) -> None:
    logs.anchors["acme"] = LogHead("acme", DELETED - 1, b"m" * 32, 0)
    assert (await logs.verified("acme")).faults == []
    # Of the last one, the MAC is still known.
    logs.anchors["acme"] = LogHead("acme", DELETED, b"m" * 32, 0)
    assert kinds(await logs.verified("acme")) == {AuditFaultKind.REPLACED}
    await logs.write("acme", [])
    await logs.cut("acme", deleted_revision=1000, deleted_mac=b"", seal=b"")
    assert kinds(await logs.verified("acme")) == {AuditFaultKind.TRUNCATED}


async def test_a_log_that_goes_on_without_a_key_or_under_an_older_one_is_at_fault(
    engine: Engine, tmp_path: Path
) -> None:
    texts = ["n" * 32, KEY]
    for chain in (make_chain(texts[1:]), make_chain(texts), make_chain(texts[1:]), Chain()):
        async with engine.database(tmp_path, chain=chain) as database:
            await new_session(database)
    async with engine.database(tmp_path, chain=make_chain(texts)) as database:
        (report,) = await all_of(Verification(database=database, chain=make_chain(texts)))
        assert [(fault.revision, fault.kind) for fault in report.faults] == [
            (4, AuditFaultKind.KEY_ORDER),
            (5, AuditFaultKind.UNPROTECTED),
        ]
        assert report.unprotected_count == 1
        (report,) = await all_of(Verification(database=database, chain=make_chain(texts[:1])))
        assert [fault.kind for fault in report.faults] == [AuditFaultKind.KEY_UNKNOWN] * 3 + [
            AuditFaultKind.UNPROTECTED
        ]


async def test_what_was_stored_before_there_was_a_key_is_counted(engine: Engine, tmp_path: Path) -> None:
    for chain in (Chain(), make_chain([KEY])):
        async with engine.database(tmp_path, chain=chain) as database:
            await new_session(database)
            (report,) = await all_of(Verification(database=database, chain=make_chain([KEY])))
    assert (report.faults, report.entry_count, report.unprotected_count) == ([], 3, 2)


async def test_a_verification_goes_on_from_any_report_and_ends_with_all_heads(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REPORT_ENTRIES", 2)
    chain = make_chain([KEY])
    async with engine.database(tmp_path, chain=chain) as database:
        for number in range(5):
            for _ in range(number + 1):
                await new_session(database, scope_of(f"vault-{number}"))
        verification = Verification(database=database, chain=chain)
        position: Position | None = Position()
        heads, entries, steps = [], 0, 0
        while position is not None:
            # Another call each time.
            report, position = await anext(verification.verify(server_scope(), position))
            assert report.faults == []
            heads += [(head.vault_id, head.revision) for head in report.heads]
            entries += report.entry_count
            steps += 1
    assert heads == [(f"vault-{number}", number + 2) for number in range(5)]
    assert entries == sum(number + 2 for number in range(5))
    assert steps >= 10


async def test_entries_that_are_stored_or_deleted_meanwhile_are_no_fault(logs: Logs) -> None:
    log = await logs.read("acme")
    verification, report = logs.verification, AuditReport()
    position = await verification.begin(server_scope(), LogHead("acme", ENTRIES, log[-1]["mac"], 0), report)
    assert await logs.database.write(delete_entries, ACME, before=10, limit=100) is False
    await logs.compact("acme", before=20)
    await new_session(logs.database)
    while position.revision >= 0:
        position = await verification.step(server_scope(), position, report)
    assert (report.faults, [head.revision for head in report.heads]) == ([], [ENTRIES])
