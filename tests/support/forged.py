"""Logs in a store, and what somebody who can write the database may do to them."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from metamorphd.audit.verification import Verification
from metamorphd.chain import Chain
from metamorphd.keys.audit import make_chain
from metamorphd.models.audit import AuditReport, LogHead
from metamorphd.models.caller import server_scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.store.audit import record_event
from metamorphd.store.compaction import compact_changes, delete_entries
from metamorphd.store.database import Database, Transaction
from metamorphd.store.verification import list_log_heads

from tests.support.engines import ENGINES
from tests.support.rows import scope_of

KEY = "k" * 32
VAULTS = ("acme", "evil", "third")
ENTRIES, DELETED = 40, 5
# The newest entry of each log that is known elsewhere.
ANCHORED = 30
# The last entry that a restore left; other ones had followed it before.
RESTORED = 20
COLUMNS = (
    *("vault_id", "revision", "change_time", "actor", "operator", "call_id", "resource", "resource_id", "verb"),
    *("detail", "key_id", "mac"),
)
LIST = f"SELECT {', '.join(COLUMNS)} FROM changes WHERE vault_id = :vault_id ORDER BY revision"  # noqa: S608
CLEAR = "DELETE FROM changes WHERE vault_id = :vault_id"
STORE = (
    f"INSERT INTO changes ({', '.join(COLUMNS)}) "  # noqa: S608
    "VALUES (:vault_id, :revision, :change_time, :actor, :operator, :call_id, :resource, :resource_id, :verb, :detail, "
    ":key_id, :mac)"
)
GET_BEGINNING = "SELECT * FROM log_beginnings WHERE vault_id = :vault_id"
SET_BEGINNING = """
UPDATE log_beginnings SET deleted_revision = :deleted_revision, deleted_mac = :deleted_mac, seal = :seal
WHERE vault_id = :vault_id
"""

# An entry, by columns.
Stored = dict[str, Any]
Log = list[Stored]
# Changes a log, given another one, and returns whether that can be found at all.
Forgery = Callable[[Log, Log, random.Random], bool]


def edited(log: Log, _: Log, randomness: random.Random) -> bool:
    """Changes one field of an entry."""
    entry = randomness.choice(log)
    column = randomness.choice(COLUMNS[2:])
    value = entry[column]
    if isinstance(value, bytes):
        bit = randomness.randrange(8 * len(value))
        entry[column] = bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(value))
    elif column == "operator":
        entry[column] = 1 - value
    elif isinstance(value, int):
        entry[column] = value + randomness.choice((-1, 1, 10**6))
    else:
        entry[column] = value[:-1] if value and randomness.random() < 0.5 else f"{value}x"
    return True


def left_out(log: Log, _: Log, randomness: random.Random) -> bool:
    """Removes entries from the middle, and perhaps closes the gap."""
    first = randomness.randrange(len(log) - 1)
    count = randomness.randint(1, min(5, len(log) - 1 - first))
    del log[first : first + count]
    if randomness.random() < 0.5:
        for entry in log[first:]:
            entry["revision"] -= count
    return True


def reordered(log: Log, _: Log, randomness: random.Random) -> bool:
    """Swaps two entries, with their MACs or without."""
    one, other = randomness.sample(range(len(log)), 2)
    kept = {"revision"} | ({"mac", "key_id"} if randomness.random() < 0.5 else set())
    for column in COLUMNS:
        if column not in kept:
            log[one][column], log[other][column] = log[other][column], log[one][column]
    return True


def added(log: Log, other: Log, randomness: random.Random) -> bool:
    """Adds a copy of an entry of this log or of another vault's at the end or in the middle."""
    copied = dict(randomness.choice(randomness.choice((log, other))), vault_id=log[0]["vault_id"])
    place = randomness.randint(1, len(log))
    copied["revision"] = log[place - 1]["revision"] + 1
    for entry in log[place:]:
        entry["revision"] += 1
    log.insert(place, copied)
    return True


def prefixed(log: Log, other: Log, randomness: random.Random) -> bool:
    """Adds an entry before the first one, in the place of one that the server has deleted, or of none ever."""
    copied = dict(randomness.choice(randomness.choice((log, other))), vault_id=log[0]["vault_id"])
    copied["revision"] = randomness.randint(-2, DELETED)
    log.insert(0, copied)
    return True


def moved(log: Log, other: Log, randomness: random.Random) -> bool:
    """Puts another vault's entry, with its MAC, in the place of one."""
    place = randomness.randrange(len(log))
    log[place] = dict(other[place], vault_id=log[place]["vault_id"])
    return True


def replayed(log: Log, lost: Log, randomness: random.Random) -> bool:
    """Puts entries back that were in their place before a restore, with their MACs."""
    first, last = sorted(randomness.choices(range(RESTORED, ENTRIES), k=2))
    log[first - DELETED : last + 1 - DELETED] = [dict(entry) for entry in lost[first : last + 1]]
    return True


def beheaded(log: Log, _: Log, randomness: random.Random) -> bool:
    """Removes the oldest entries."""
    del log[: randomness.randint(1, len(log) - 1)]
    return True


def truncated(log: Log, _: Log, randomness: random.Random) -> bool:
    """Removes the newest entries. If none of them is known elsewhere, nobody can find that."""
    count = randomness.randint(1, len(log))
    del log[len(log) - count :]
    return not log or bool(log[-1]["revision"] < ANCHORED)


def unprotected(log: Log, _: Log, randomness: random.Random) -> bool:
    """Takes MACs away, from an entry or from all, as if there had been no key."""
    entries = log if randomness.random() < 0.5 else [randomness.choice(log)]
    for entry in entries:
        entry["mac"], entry["key_id"], entry["actor"] = b"", "", "forger"
    return True


FORGERIES: dict[str, Forgery] = {
    forgery.__name__: forgery
    for forgery in (edited, left_out, reordered, added, prefixed, moved, replayed, beheaded, truncated, unprotected)
}


class Logs:
    """Logs of a few vaults, which are put back after each forgery."""

    def __init__(self, database: Database, chain: Chain) -> None:
        self.database = database
        self.verification = Verification(database=database, chain=chain)
        self._lost: dict[str, Log] = {}
        self.anchors: dict[str, LogHead] = {}

    async def fill(self) -> None:
        """Stores entries, goes back to an earlier state and on from there, and has the oldest deleted."""
        for vault in VAULTS:
            await self._append(vault, 1, "lost")
            self._lost[vault] = await self.read(vault)
            await self.write(vault, self._lost[vault][:RESTORED])
            await self._append(vault, RESTORED + 1, "kept")
            await self.compact(vault, before=DELETED + 1)
            anchored = (await self.read(vault))[ANCHORED - DELETED - 1]
            self.anchors[vault] = LogHead(vault, ANCHORED, anchored["mac"], 0)

    async def _append(self, vault: str, first: int, name: str) -> None:
        for number in range(first, ENTRIES + 1):
            scope = scope_of(vault) if number % 4 else scope_of(vault).of_vault(vault)
            await self.database.write(
                record_event,
                scope,
                resource=list(ChangedResource)[number % 5],
                resource_id=f"{name}_{number % 3}",
                verb=list(ChangeVerb)[number % 4],
                details={"version": str(number)} if number % 2 else None,
                now=number,
            )

    async def compact(self, vault: str, *, before: int) -> None:
        """Has the server delete the entries that were made before a time."""
        await self.database.write(compact_changes, scope_of(vault), before=before, limit=100)
        await self.database.write(delete_entries, scope_of(vault), before=before, limit=100)

    async def read(self, vault: str) -> Log:
        async def operation(tx: Transaction) -> Log:
            return [{column: getattr(row, column) for column in COLUMNS} for row in await tx.all(LIST)]

        return await self.database.read(operation, scope_of(vault))

    async def write(self, vault: str, log: Log) -> None:
        async def operation(tx: Transaction) -> None:
            await tx.run(CLEAR)
            for entry in log:
                await tx.run(STORE, **entry)

        await self.database.write(operation, scope_of(vault))

    async def cut(self, vault: str, **changed: Any) -> None:
        """Changes what is stored of what the server has deleted."""

        async def operation(tx: Transaction) -> None:
            row: Any = await tx.one(GET_BEGINNING)
            names = ("deleted_revision", "deleted_mac", "seal")
            await tx.run(SET_BEGINNING, **({name: getattr(row, name) for name in names} | changed))

        await self.database.write(operation, scope_of(vault))

    async def verified(self, vault: str) -> AuditReport:
        """Returns what a verification finds in a vault's log, and what its anchor does."""
        report = AuditReport()
        before = max((each for each in VAULTS if each < vault), default="")
        heads = await self.database.read_system(list_log_heads, server_scope(), after=before, limit=1)
        if heads and heads[0].vault_id == vault:
            position = await self.verification.begin(server_scope(), heads[0], report)
            while position.revision >= 0 and not report.full:
                position = await self.verification.step(server_scope(), position, report)
        compared = await self.verification.compare(server_scope(), [self.anchors[vault]])
        report.faults += compared.faults
        return report

    async def found(self, vault: str, forgery: Forgery, randomness: random.Random) -> bool | None:
        """Forges a log, and returns whether that is found, None if nobody can, or if it changed nothing. Undoes it."""
        log = await self.read(vault)
        before = [dict(entry) for entry in log]
        other = await self.read(randomness.choice([each for each in VAULTS if each != vault]))
        findable = forgery(log, self._lost[vault] if forgery is replayed else other, randomness)
        if log == before:
            return None
        await self.write(vault, log)
        faults = (await self.verified(vault)).faults
        await self.write(vault, before)
        return bool(faults) if findable else None


@asynccontextmanager
async def forgeable(directory: Path) -> AsyncIterator[Logs]:
    """Yields logs in a new store."""
    chain = make_chain([KEY])
    async with ENGINES[0].database(directory, chain=chain) as database:
        logs = Logs(database, chain)
        await logs.fill()
        yield logs
