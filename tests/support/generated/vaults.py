"""Generated files of many vaults with secrets, memories and a log, written by the store's own operations, in bulk."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from metamorphd.clock import Clock
from metamorphd.keys.environment import EnvironmentKeys
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.caller import SERVER, Scope
from metamorphd.models.memory import MemoryType, NewMemory
from metamorphd.models.secret import NewVersion
from metamorphd.secrets.secrets import Secrets
from metamorphd.store import migrations
from metamorphd.store.memories.create import create_memory
from metamorphd.store.sqlite.transaction import SqliteTransaction, drive
from rich.progress import Progress

from tests.support.generated.corpus import CORPUS
from tests.support.generated.generate import PRAGMAS, SUFFIXES, create

KEY = "k" * 32
SECRET_BYTES = 200


@dataclass(frozen=True)
class VaultsLayout:
    """How many vaults a file has, and how many secrets, and memories, all of them have together."""

    vaults: int
    rows: int

    @property
    def rows_of_vault(self) -> int:
        return self.rows // self.vaults


def vault_id(number: int) -> str:
    """Returns the id of a vault by its number, from 0."""
    return f"vault-{number}"


def secret_name(number: int) -> str:
    """Returns the name of a secret by its number in its vault, from 0."""
    return f"secret-{number}"


def memory_content(number: int) -> str:
    """Returns the content of a memory by its number in its vault, from 0: a text, and a word that no other one has."""
    return f"{CORPUS.texts[CORPUS.text_number(number)]} m{number}"


def file_of(layout: VaultsLayout, files: Path, progress: Progress) -> Path:
    """Returns the file of a layout, which is generated if it is not there."""
    file = files / f"vaults-{layout.vaults}-{layout.rows}-{_version()}.db"
    if not file.exists():
        asyncio.run(_generate(file, layout, progress))
    return file


def _version() -> str:
    """Returns a hash of what files depend on beside their layout: the schema and this module."""
    sources = [statements for _, statements in migrations.load("sqlite")] + [Path(__file__).read_text()]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:8]


class Bulk:
    """Runs operations as a Database does, but none is committed before its vault is complete."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def read(self, operation: Any, scope: Scope, /, **arguments: Any) -> Any:
        return drive(operation(SqliteTransaction(self._connection, scope), **arguments))

    write = read

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self._connection.execute("BEGIN")
        yield
        self._connection.execute("COMMIT")


async def _generate(file: Path, layout: VaultsLayout, progress: Progress) -> None:
    """Writes a file. It has its name once it is complete: until then that ends in `.part`."""
    part = file.with_name(file.name + ".part")
    for suffix in SUFFIXES:
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    await create(part)
    connection = apsw.Connection(str(part), flags=apsw.SQLITE_OPEN_READWRITE)
    for pragma in PRAGMAS:
        connection.execute("PRAGMA " + pragma).fetchall()
    bulk: Any = Bulk(connection)
    keys = VaultKeys(EnvironmentKeys([KEY], key_time=None))
    clock = Clock()
    secrets = Secrets(database=bulk, keys=keys, clock=clock, storage_limit=0)
    for number in progress.track(range(layout.vaults), description=f"generating {file.name}"):
        async with bulk.transaction():
            await _fill(Scope(vault_id(number), SERVER, ""), layout, bulk, secrets, clock)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()
    for suffix in SUFFIXES[1:]:
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    part.rename(file)


async def _fill(scope: Scope, layout: VaultsLayout, bulk: Any, secrets: Secrets, clock: Clock) -> None:
    for row in range(layout.rows_of_vault):
        new = NewVersion(secret_name(row), expected_version=None, labels={}, expire_time=None)
        await secrets.put(scope, new, value=b"s" * SECRET_BYTES, request=None)
        memory = NewMemory(MemoryType.SEMANTIC, memory_content(row), importance=row % 10 / 10)
        await bulk.write(
            create_memory,
            scope,
            memory=memory,
            memory_id=clock.new_id("mem"),
            supersedes=(),
            request=None,
            hash_key=clock.new_key(),
            most_memories=layout.rows_of_vault,
            storage_limit=0,
            now=clock.now(),
        )
