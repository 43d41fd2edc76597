"""Part (s): the bytes that a session, a message and so on take on disk, and the volume that so many users need."""

import asyncio
import contextlib
import itertools
import math
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw
import grpc
from metamorphd.store.sqlite.space import LARGEST_BALLAST, LARGEST_FLOOR, LARGEST_LOG, SHARE

from bench.figure import Figure
from bench.processes import model_service, token
from tests.support.caller import Caller, calling
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.generated.corpus import Corpus

STEPS = 1
ATTEMPTS = 5
STOP_SECONDS = 60.0
# Vaults with conversations, as large as those of a user, and vaults with a session and nothing in it.
BUSY_VAULTS = 4
SESSIONS = 6
TURNS = 8
QUIET_VAULTS = 300
# A reply is so many texts of the corpus, which have 37 words, in pieces of about five words.
REPLY_TEXTS = 4
PIECE_CHARACTERS = 25
PIECE_SECONDS = 0.02
ATTACHMENTS = 4
ATTACHMENT_BYTES = 2**20

# Of a turn: the message, its beginning, the reply, its end.
TURN_CHANGES = 4

T = TypeVar("T")

# Where everything is stored, by the kind of thing that it belongs to. Indexes belong to their tables.
TABLES = {
    "vault": ("vaults", "vault_limits", "subject_budgets"),
    "session": ("sessions", "session_metadata"),
    "session's usage on a day": ("usage", "daily_usage", "subject_usage"),
    "message": ("messages", "message_links"),
    "search index of a message": ("indexed_messages", "postings"),
    "turn": ("turns",),
    "events of a turn, for a day": ("events",),
    "request_id, for a week": ("requests",),
    "entry of the log, for a year": ("changes",),
    "MiB of attachments": ("attachments", "attachment_chunks", "attachment_uses"),
}
# Empty but for a few rows, however many users there are; and secrets and memories, which the users here do not keep.
FEW = (
    *(
        "sqlite_schema",
        "revocations",
        "vault_states",
        "erasures",
        "erased_vaults",
        "operations",
        "sqlite_sequence",
        "identity",
    ),
    *("log_beginnings", "unfiled_entries", "ledger_files"),
)
NONE = ("data_keys", "secrets", "secret_versions", "memories", "imports", "staged_records")


@dataclass(frozen=True)
class User:
    """A user of a vault: how much one keeps, and how much one does. A turn is a message and a reply."""

    sessions: int = 10
    turns: int = 50
    turns_a_day: int = 2


@dataclass(frozen=True)
class Volume:
    """The bytes of a database of so many users, and the gigabytes of its volume: with the backups of a week that are
    the default, and with those of a day."""

    users: int
    database: int
    week: int
    day: int


# In gigabytes, of the deployment guide, for up to so many users. Of the last, it says that it may be more.
GUIDE = {1_000: 1, 10_000: 5, 100_000: 10}


class Volumes:
    """Measures a database that a server has written, in many small vaults."""

    def __init__(self, *, step: Callable[[str], None]) -> None:
        self._step = step

    def figures(self) -> Iterator[Figure]:
        """Yields the bytes by kind, then the volumes."""
        self._step("a database to be measured")
        try:
            measured = self.measured()
        except grpc.aio.AioRpcError as error:
            yield Figure("(s) bytes by kind", f"not measured: {error.code().name}: {error.details()}")
            return
        except (RuntimeError, ValueError) as error:
            yield Figure("(s) bytes by kind", f"not measured: {error}")
            return
        for kind, size in measured.items():
            yield Figure(f"(s) bytes: {kind}", f"{size:,}")
        for volume in volumes(measured):
            yield Figure(
                f"(s) volume for {volume.users:,} users, backups of 7 days; reference: the deployment guide",
                f"{volume.week:,} GB",
                f"{GUIDE[volume.users]} GB",
            )
            yield Figure(f"(s) volume for {volume.users:,} users, backups of 1 day", f"{volume.day:,} GB")
            yield Figure(f"(s) database of {volume.users:,} users", f"{volume.database / 1e9:,.2f} GB")

    def measured(self) -> dict[str, int]:
        """Returns the bytes on disk of one of each kind. Raises ValueError if there is a table of no kind."""
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "metamorph.db"
            asyncio.run(self._fill(file))
            return bytes_by_kind(file)

    async def _fill(self, file: Path) -> None:
        """Lets a server write a database, and close it."""
        numbers = itertools.count()
        texts = Corpus().texts

        def text() -> str:
            return texts[Corpus().text_number(next(numbers))]

        def reply(_: object) -> Reply:
            words = " ".join(text() for _ in range(REPLY_TEXTS))
            pieces = (words[place : place + PIECE_CHARACTERS] for place in range(0, len(words), PIECE_CHARACTERS))
            return Reply(tuple(pieces), delay=PIECE_SECONDS)

        async with FakeMessagesApi(reply) as api:
            # On a busy machine a request may come late, and then counts as a large one.
            memory = dict.fromkeys(("MAX_BYTES_IN_FLIGHT", "MAX_VAULT_BYTES_IN_FLIGHT"), str(2**31))
            with model_service(file, api.base_url, AUDIT_KEY="k" * 32, **memory) as server:
                users = (_converse(server.target, f"busy-{number}", text) for number in range(BUSY_VAULTS))
                await asyncio.gather(*users)
                await _fill_others(server.target, text)
                server.process.terminate()
                await asyncio.to_thread(server.process.wait, STOP_SECONDS)


async def _converse(target: str, vault: str, text: Callable[[], str]) -> None:
    async with calling(target, token(vault)) as caller:

        async def converse() -> None:
            session = await _patiently(partial(caller.create_session, title=text()[:40]))
            for _ in range(TURNS):
                await _patiently(partial(caller.send, session.session_id, text(), request_id=str(uuid.uuid4())))

        await asyncio.gather(*(converse() for _ in range(SESSIONS)))


async def _fill_others(target: str, text: Callable[[], str]) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        for number in range(QUIET_VAULTS):
            vault = Caller(channel, [("authorization", f"Bearer {token(f'quiet-{number}')}")])
            await _patiently(partial(vault.create_session, title=text()[:40]))
        for number in range(ATTACHMENTS):
            content = bytes([ord("a") + number]) * ATTACHMENT_BYTES
            await _patiently(partial(vault.upload, content, "text/plain"))


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call again that a busy machine did not get done in time. The last failure is raised."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await call()
        await asyncio.sleep(1)
    return await call()


def bytes_by_kind(file: Path) -> dict[str, int]:
    """Returns the bytes of the pages of each kind, divided by how many there are."""
    used = BUSY_VAULTS * SESSIONS
    turns = used * TURNS
    counts = (
        BUSY_VAULTS + QUIET_VAULTS,
        used + QUIET_VAULTS,
        used,
        2 * turns,
        2 * turns,
        turns,
        turns,
        turns,
        # Each vault and each session was created, too, and so were attachments.
        TURN_CHANGES * turns + BUSY_VAULTS + used + 2 * QUIET_VAULTS + ATTACHMENTS,
        ATTACHMENTS,
    )
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows: Any = connection.execute(
            "SELECT coalesce(tbl_name, 'sqlite_schema'), sum(pgsize) FROM dbstat "
            "LEFT JOIN sqlite_schema ON sqlite_schema.name = dbstat.name WHERE aggregate = TRUE GROUP BY 1"
        ).fetchall()
    finally:
        connection.close()
    sizes: dict[str, int] = dict(rows)
    known = {table for tables in TABLES.values() for table in tables}
    if unknown := sizes.keys() - known - set(FEW) - set(NONE):
        raise ValueError(f"tables of no kind: {sorted(unknown)}")
    return {
        kind: round(sum(sizes.get(table, 0) for table in tables) / count)
        for (kind, tables), count in zip(TABLES.items(), counts, strict=True)
    }


def volumes(measured: Mapping[str, int], user: User | None = None) -> list[Volume]:
    """Returns the volumes for the numbers of users of which the deployment guide speaks."""
    size = user_bytes(measured, user or User())
    return [Volume(users, users * size, _gigabytes(users * size, 7), _gigabytes(users * size, 1)) for users in GUIDE]


def user_bytes(measured: Mapping[str, int], user: User) -> int:
    """Returns the bytes of a user in the database."""
    vault, session, usage, message, index, turn, events, request, entry, _ = measured.values()
    kept = user.sessions * (session + usage) + user.turns * (2 * (message + index) + turn)
    return vault + kept + user.turns_a_day * (events + 7 * request + 365 * TURN_CHANGES * entry)


def _gigabytes(database: int, days: int) -> int:
    """Returns the size of a volume with room for growth: for the database, its log, its backups and the floor.

    There is a backup for each of the days, and the next one before the oldest is deleted.
    """
    need = database * (1 + days + 1) + LARGEST_LOG
    for gigabytes in itertools.count(1):
        volume = gigabytes * 10**9
        reserved = min(LARGEST_FLOOR, volume // SHARE) + min(LARGEST_BALLAST, volume // SHARE)
        if need <= volume - reserved:
            return gigabytes if gigabytes < 20 else math.ceil(gigabytes / 10) * 10
    raise AssertionError
