"""Erased content is in no file: not in free pages, not in the gaps of pages, not in the log."""

import random
import re
import shutil
from pathlib import Path

import pytest
from metamorphd.models.attachment import Upload
from metamorphd.models.content import DocumentBlock, TextBlock
from metamorphd.models.memory import MemoryType, NewMemory
from metamorphd.models.session import SessionChanges
from metamorphd.store.database import Transaction
from metamorphd.store.memories.change import delete_memory
from metamorphd.store.memories.create import create_memory
from metamorphd.store.messages import delete_message
from metamorphd.store.sessions import delete_session, update_session
from metamorphd.store.sqlite import file, log
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.gaps import Gaps
from metamorphd.store.uploads import create_attachment

from tests.store.sqlite.writer import cut_log
from tests.support.rows import ACME, CLOCK, KEY, erase, new_session, stored_message

CANARY = re.compile(rb"canary[0-9a-f]{16}")
SESSIONS = 60
MESSAGES = 10


class Planted:
    """The canaries of a database: those that are deleted, and those that are kept."""

    def __init__(self) -> None:
        self.randomness = random.Random(7)  # noqa: S311
        self.kept: set[bytes] = set()
        self.deleted: set[bytes] = set()

    def text(self, count: int, *, kept: bool) -> str:
        words = [f"canary{self.randomness.getrandbits(64):016x}" for _ in range(count)]
        (self.kept if kept else self.deleted).update(word.encode() for word in words)
        return " ".join(words)


async def revise(database: SqliteDatabase, planted: Planted) -> None:
    """Stores sessions, changes their prompts to longer and shorter ones, so that their pages are split, and deletes."""
    sessions = [await new_session(database) for _ in range(100)]
    for _ in range(6):
        for session in planted.randomness.sample(sessions, len(sessions)):
            prompt = planted.text(planted.randomness.randrange(20), kept=False)
            changes = SessionChanges(system_prompt=prompt)
            await database.write(
                update_session, ACME, session_id=session.session_id, changes=changes, etag="", now=CLOCK.now()
            )
    for session in sessions:
        await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    await erase(database)


async def plant(database: SqliteDatabase, planted: Planted) -> None:
    """Stores sessions and deletes every other one, and of the others every other message."""
    await revise(database, planted)
    doomed = []
    for number in range(SESSIONS):
        kept = number % 2 == 0
        session = await new_session(
            database,
            title=planted.text(1, kept=kept),
            system_prompt=planted.text(3, kept=kept),
            metadata={"key": planted.text(1, kept=kept)},
        )
        for place in range(MESSAGES):
            stays = kept and place % 2 == 0
            size = 400 if place == 5 and number % 10 < 2 else 12
            message = await stored_message(database, session.session_id, planted.text(size, kept=stays))
            if kept and not stays:
                doomed.append(message.message_id)
        upload = Upload.of("text/plain", planted.text(2_000 if number < 2 else 20, kept=kept).encode())
        await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=1)
        block = DocumentBlock(upload.attachment_id, "text/plain", len(upload.data), upload.sha256)
        await stored_message(database, session.session_id, content=(TextBlock(planted.text(1, kept=kept)), block))
        if not kept:
            await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
            if number % 4 == 1:
                await erase(database)
    for message_id in doomed:
        await database.write(delete_message, ACME, message_id=message_id, now=9)
    for number in range(SESSIONS):
        memory_id = await remember(database, planted.text(20, kept=number % 2 == 0))
        if number % 2:
            await database.write(delete_memory, ACME, memory_id=memory_id, etag="", now=9)
    await erase(database)


async def remember(database: SqliteDatabase, content: str) -> str:
    """Stores a memory, and returns its ID."""
    memory, _ = await database.write(
        create_memory,
        ACME,
        memory=NewMemory(MemoryType.SEMANTIC, content),
        memory_id=CLOCK.new_id("mem"),
        supersedes=(),
        request=None,
        hash_key=KEY,
        most_memories=SESSIONS,
        storage_limit=0,
        now=1,
    )
    return memory.memory_id


def found(directory: Path) -> set[bytes]:
    """Returns the canaries in the files of a directory."""
    return {word for path in directory.iterdir() if path.is_file() for word in CANARY.findall(path.read_bytes())}


async def left(directory: Path) -> int:
    """Plants and deletes, and returns how many deleted canaries are left when the log has been emptied."""
    planted = Planted()
    async with SqliteDatabase(path=directory / "metamorph.db", synchronous="NORMAL") as database:
        await plant(database, planted)
        await cut_log(database)
        words = found(directory)
        assert len(planted.deleted) > 10_000
        # Some are cut in two, where a row goes on in another page.
        assert len(planted.kept - words) < len(planted.kept) / 20
    assert found(directory) <= words
    return len(words & planted.deleted)


async def test_what_is_erased_is_in_no_file(tmp_path: Path) -> None:
    assert await left(tmp_path) == 0


async def test_without_overwriting_free_pages_their_content_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragmas = file._pragmas
    monkeypatch.setattr(
        file,
        "_pragmas",
        lambda **options: [
            pragma.replace("secure_delete = ON", "secure_delete = FAST") for pragma in pragmas(**options)
        ],
    )
    assert await left(tmp_path) > 0


async def create_scattered(tx: Transaction) -> None:
    await tx.run("CREATE TABLE scattered (key INTEGER PRIMARY KEY, word TEXT, padding TEXT)")


async def scatter(tx: Transaction, *, words: list[str], randomness: random.Random) -> None:
    for word in words:
        padding = " x" * randomness.choice([20, 20, 60, 1500])
        for text in (word, "neighbour"):
            key = randomness.getrandbits(62)
            await tx.run("INSERT INTO scattered VALUES (:key, :word, :padding)", key=key, word=text, padding=padding)


async def delete_scattered(tx: Transaction) -> int:
    return await tx.run(
        "DELETE FROM scattered WHERE key IN (SELECT key FROM scattered WHERE word <> 'neighbour' LIMIT 100)"
    )


async def left_scattered(directory: Path) -> int:
    """Returns how many words are left of rows that were stored in no order and deleted, so that others moved."""
    planted = Planted()
    async with SqliteDatabase(path=directory / "metamorph.db", synchronous="OFF") as database:
        await database.write(create_scattered, ACME)
        for _ in range(100):
            words = planted.text(100, kept=False).split()
            await database.write(scatter, ACME, words=words, randomness=planted.randomness)
        await cut_log(database)
        while await database.write(delete_scattered, ACME):
            pass
        await cut_log(database)
        words_left = found(directory) & planted.deleted
    return len(words_left)


async def test_rows_that_moved_leave_no_copies(tmp_path: Path) -> None:
    assert await left_scattered(tmp_path) == 0


async def test_without_clearing_gaps_copies_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gaps, "_clear", lambda *_: None)
    assert await left_scattered(tmp_path) > 0


async def test_what_a_crash_left_is_swept_once(tmp_path: Path) -> None:
    running, crashed = tmp_path / "running", tmp_path / "crashed"
    running.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Gaps, "_clear", lambda *_: None)
        assert await left_scattered(running) > 0
    async with SqliteDatabase(path=running / "metamorph.db", synchronous="OFF") as database:
        await new_session(database)
        # As it is after kill -9.
        shutil.copytree(running, crashed)
    left_by_crash = found(crashed)
    assert left_by_crash
    async with SqliteDatabase(path=crashed / "metamorph.db", synchronous="OFF") as database:
        assert (crashed / "metamorph.db-unswept").exists()
        while await database.maintain():
            pass
        assert not (crashed / "metamorph.db-unswept").exists()
        assert found(crashed) == set()
        assert database._file.writing.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with SqliteDatabase(path=crashed / "metamorph.db", synchronous="OFF"):
        assert not (crashed / "metamorph.db-unswept").exists()


async def left_in_copies(directory: Path) -> int:
    """Returns how many words of rows that were deleted are in copies, made in between, whose gaps moved with pages."""
    planted, count = Planted(), 0
    copies = directory / "copies"
    copies.mkdir()
    async with SqliteDatabase(path=directory / "metamorph.db", synchronous="OFF") as database:
        await database.write(create_scattered, ACME)
        for _ in range(100):
            words = planted.text(100, kept=False).split()
            await database.write(scatter, ACME, words=words, randomness=planted.randomness)
        while await database.write(delete_scattered, ACME):
            pass
        await database.copy(copies / "copy.db", progress=lambda _: None)
        count += len(found(copies))
    return count


@pytest.fixture
def long_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps all in the log, whose pages have gaps that are not cleared yet."""
    for name in ("COPY_BYTES", "EMPTY_BYTES", "FULL_BYTES", "TRUNCATE_SECONDS"):
        monkeypatch.setattr(log, name, float("inf") if name.endswith("BYTES") else 3600.0)


@pytest.mark.usefixtures("long_log")
async def test_copies_have_nothing_of_rows_that_are_deleted(tmp_path: Path) -> None:
    assert await left_in_copies(tmp_path) == 0


@pytest.mark.usefixtures("long_log")
async def test_without_clearing_their_gaps_copies_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gaps, "clear_copy", lambda *_: None)
    assert await left_in_copies(tmp_path) > 0
