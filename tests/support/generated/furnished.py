"""Memories, secrets and the log of them, added to a generated file, where its vaults have messages only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
from metamorphd.chain import Chain
from metamorphd.clock import Clock
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.caller import SERVER, Scope
from metamorphd.models.memory import MemoryType, NewMemory
from metamorphd.models.secret import NewVersion
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.memories.create import create_memory
from metamorphd.store.sqlite.transaction import SqliteTransaction, drive

from tests.support.generated.generate import PRAGMAS
from tests.support.generated.vaults import SECRET_BYTES, Bulk, memory_content, secret_name


class _Chained(Bulk):
    """Runs operations whose changes are authenticated by a chain."""

    def __init__(self, connection: apsw.Connection, chain: Chain) -> None:
        super().__init__(connection)
        self._chained, self._chain = connection, chain

    async def read(self, operation: Any, scope: Scope, /, **arguments: Any) -> Any:
        return drive(operation(SqliteTransaction(self._chained, scope, self._chain), **arguments))

    write = read


async def furnish(file: Path, rows: Mapping[str, int], *, keys: VaultKeys, chain: Chain) -> None:
    """Gives each vault so many memories and secrets, by the store's own operations. Nobody else has the file open."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
    for pragma in PRAGMAS:
        connection.execute("PRAGMA " + pragma).fetchall()
    bulk: Any = _Chained(connection, chain)
    clock = Clock()
    secrets = Secrets(database=bulk, keys=keys, clock=clock, storage_limit=0)
    async with bulk.transaction():
        for vault_id, count in rows.items():
            scope = Scope(vault_id, SERVER, "")
            for number in range(count):
                new = NewVersion(secret_name(number), expected_version=None, labels={}, expire_time=None)
                await secrets.put(scope, new, value=b"s" * SECRET_BYTES, request=None)
                await _remember(bulk, scope, number, most=count, clock=clock)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


async def _remember(bulk: Any, scope: Scope, number: int, *, most: int, clock: Clock) -> None:
    await bulk.write(
        create_memory,
        scope,
        memory=NewMemory(MemoryType.SEMANTIC, memory_content(number), importance=number % 10 / 10),
        memory_id=clock.new_id("mem"),
        supersedes=(),
        request=None,
        hash_key=clock.new_key(),
        most_memories=most,
        storage_limit=0,
        now=clock.now(),
    )
