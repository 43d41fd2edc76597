"""What is staged is what was stored: rows, links of messages, and the words by which they are found."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from metamorphd.clock import day_of
from metamorphd.models.export import Position
from metamorphd.models.imports import Imported, Line
from metamorphd.models.usage import Usage
from metamorphd.store import imports
from metamorphd.store.database import Database, Transaction
from metamorphd.store.exports import read_records
from metamorphd.store.imports import begin_import, complete_import, end_import_step
from metamorphd.store.search import postings
from metamorphd.store.search.postings import add_lists, unpack
from metamorphd.store.staging import find_sessions, reserve_numbers, stage_step
from metamorphd.store.usage import count_turn
from metamorphd.transfers import planning
from metamorphd.transfers.planning import Lists, Planning

from tests.support.rows import ACME, CLOCK, EVIL, KEY, TERMS, finish, new_session, new_turn, stored_message

TABLES = {
    "sessions": "SELECT * FROM sessions WHERE vault_id = :vault_id ORDER BY session_id",
    "pairs": "SELECT * FROM session_metadata WHERE vault_id = :vault_id ORDER BY session_id, key",
    "messages": "SELECT * FROM messages WHERE vault_id = :vault_id ORDER BY message_id",
    "links": "SELECT * FROM message_links WHERE vault_id = :vault_id ORDER BY message_id",
    "turns": "SELECT * FROM turns WHERE vault_id = :vault_id ORDER BY turn_id",
    "indexed": "SELECT * FROM indexed_messages WHERE vault_id = :vault_id ORDER BY number",
    "counts": """SELECT session_count, message_count, turn_count, stored_bytes
        FROM vaults WHERE vault_id = :vault_id""",
}
# Of the server that runs turns, and of this one.
IGNORED = {"vault_id", "owner", "lease_expire_time", "pruned", "last_sequence", "revision", "reserved_tokens"}
WORDS = [f"w{number}" for number in range(30)] + ["日本語", "é\u0301lan", "a\u0000b"]


async def filled(database: Database, seed: int, sizes: Sequence[int]) -> None:
    """Stores sessions of so many messages, with branches, one after the other, so that numbers are in that order."""
    chance = random.Random(seed)  # noqa: S311, no secret
    for number, size in enumerate(sizes):
        session = await new_session(
            database, session_id=f"ses_{number}", title="a\u0000title", metadata={"b": "1", "a": "é"}
        )
        ids: list[str] = []
        for place in range(size):
            parent = chance.choice(ids) if place and chance.random() < 0.1 else ids[-1] if place else None
            text = " ".join(chance.choices(WORDS, k=chance.randrange(12)))
            ids.append(f"msg_{number}_{place:05}")
            await stored_message(
                database, session.session_id, text, message_id=ids[-1], parent_message_id=parent, turn_id=""
            )
        if size:
            await finish(database, await new_turn(database, session.session_id, "The last one"))


async def lines_of(database: Database) -> list[Line]:
    """Returns all records of the vault `acme`."""
    lines: list[Line] = []
    position: Position | None = Position()
    while position is not None:
        page = await database.read(read_records, ACME, position=position, most_bytes=100_000, now=CLOCK.now())
        for text in page.lines.splitlines():
            record = orjson.loads(text)
            lines.append(Line(len(lines) + 2, record["kind"], record, len(text)))
        position = page.next
    return lines


async def imported(database: Database, lines: Sequence[Line], *, at_once: int) -> Imported:
    """Imports records into the vault `evil`, so many at a time, and returns what was stored."""
    planned = await decided(database, lines, at_once=at_once)
    while (step := await database.write(end_import_step, EVIL, now=1)) is not None:
        planned.imported.add(step)
    return planned.imported


async def decided(database: Database, lines: Sequence[Line], *, at_once: int) -> Planning:
    """Stages records for the vault `evil`, so many at a time, to be revealed."""
    key = await database.write(begin_import, EVIL, import_id="imp", hash_key=KEY, now=1)
    assert key is not None
    planned = Planning(key)

    async def store(steps: Sequence[Any]) -> None:
        for step in steps:
            if isinstance(step, Lists):
                await database.write(add_lists, EVIL, block=step.block, lists=step.lists)
            else:
                await database.write(stage_step, EVIL, step=step, storage_limit=0)

    for start in range(0, len(lines), at_once):
        some = lines[start : start + at_once]
        ids = [line.record["session_id"] for line in some if line.kind == "session"]
        known = await database.read(find_sessions, EVIL, session_ids=ids)
        while len(planned.numbers) < planned.wants_numbers(some, known):
            left = planned.wants_numbers(some, known) - len(planned.numbers)
            planned.numbers.extend(await database.write(reserve_numbers, EVIL, limit=left))
        await store([step for line in some for step in planned.steps(line, known)])
    await store(list(planned.rest()))
    await database.write(complete_import, EVIL, import_id="imp", counts={}, now=1)
    return planned


async def rows(tx: Transaction) -> dict[str, Any]:
    """Returns what the vault has, but for what is not the same in two of them."""
    found: dict[str, Any] = {}
    for name, sql in TABLES.items():
        found[name] = [
            {column: value for column, value in shown(row).items() if column not in IGNORED}
            for row in await tx.all(sql)
        ]
    found["postings"] = {
        (row.block, row.term): sorted(unpack(row.offsets))
        for row in await tx.all("SELECT block, term, offsets FROM postings WHERE vault_id = :vault_id")
    }
    return found


def shown(row: Any) -> dict[str, Any]:
    """Returns a row by its columns."""
    return {column: getattr(row, column) for column in dir(type(row)) if not hasattr(tuple, column)}


@pytest.mark.parametrize(("seed", "step", "at_once"), [(1, 3, 5), (2, 64, 100), (3, 16, 1_000), (4, 1, 1)])
async def test_what_is_imported_is_what_was_stored(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int, step: int, at_once: int
) -> None:
    monkeypatch.setattr(planning, "STEP_RECORDS", step)
    monkeypatch.setattr(planning, "HELD_TERMS", 20 * seed)
    # Of some seeds a few messages and turns are large.
    monkeypatch.setattr(planning, "LARGE_BYTES", 470 if seed % 2 else 32_768)
    for module in (postings, planning):
        monkeypatch.setattr(module, "BLOCK_BITS", 6)
    monkeypatch.setattr(postings, "GROUP_BITS", 1)
    await filled(database, seed, [1, 150, 0, 2, 40])
    lines = [line for line in await lines_of(database) if line.kind in ("session", "message", "turn")]
    answer = await imported(database, lines, at_once=at_once)
    assert answer.stored == {"session": 5, "message": 197, "turn": 4}
    ours, theirs = [await database.read(rows, scope) for scope in (ACME, EVIL)]
    # Messages without words have none.
    for name in ours:
        assert theirs[name] == ours[name], name


async def test_numbers_are_reserved_up_to_the_end_of_a_block(database: Database) -> None:
    await new_session(database)
    taken = [await database.write(reserve_numbers, ACME, limit=limit) for limit in (10, 5_000, 5_000, 1)]
    assert taken == [range(1, 11), range(11, 1_024), range(1_024, 2_048), range(2_048, 2_049)]


@pytest.mark.parametrize("at", [0, 1, 2, 3])
async def test_usage_that_is_revealed_and_usage_of_that_moment_add_up(
    database: Database, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """If the vault has used the model before, nothing is taken. Else everything is, beside what is used meanwhile."""
    monkeypatch.setattr(imports, "STEP_RECORDS", 1)
    day = day_of(CLOCK.now()).isoformat()
    used = {"day": day, "model": TERMS.default_model, "turns": 1, **asdict(Usage(input_tokens=5))}
    records = [{"kind": "usage", "session_id": session, **used} for session in ("ses_a", "ses_b")]
    records.append({"kind": "subject_usage", "subject_kind": "user", "subject": "mallory", **used, "turns": 2})
    lines = [Line(number, str(record["kind"]), record, 100) for number, record in enumerate(records, 2)]
    await decided(database, lines, at_once=10)
    session = await new_session(database, scope=EVIL)
    for step in range(5):
        if step == at:
            turn = await new_turn(database, session.session_id, scope=EVIL)
            await database.write(count_turn, EVIL, turn=turn, usage=Usage(input_tokens=5), now=CLOCK.now())
        await database.write(end_import_step, EVIL, now=1)
    turns = await database.read(turns_by, EVIL)
    assert turns == dict.fromkeys(turns, 1 if at == 0 else 3)


async def turns_by(tx: Transaction) -> dict[str, int]:
    """Returns how many turns the vault has used, by day, by session and by user."""
    found: dict[str, int] = {}
    for table, kind in (("daily_usage", ""), ("usage", ""), ("subject_usage", "AND kind = 'user'")):
        row = await tx.one(f"SELECT SUM(turns) AS turns FROM {table} WHERE vault_id = :vault_id {kind}")  # noqa: S608
        found[table] = 0 if row is None else row.turns
    return found
