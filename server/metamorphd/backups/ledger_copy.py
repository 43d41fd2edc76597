"""The erasure ledger in a bucket, beside the copies of backups: a restore from there knows it, wherever it is made.

Objects cannot be appended to, so the ledger is in several. One that is large enough is never written again. Smaller
ones are replaced by one with all that they have, which is there before they are deleted: whatever happens meanwhile,
and however many servers do so, an entry may be there twice, but never not at all.
"""

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from metamorphd.backups.bucket import Bucket, Object, ObjectNotFound
from metamorphd.backups.ledger import BEGINNING, STEP_BYTES, LedgerFile, format_entries, parse_entries
from metamorphd.models.erased_vault import ErasedVault, LedgerPosition

OBJECT = re.compile(r"erased-vaults(?:\.[0-9a-f]{32})?\.jsonl")
# Objects of less are replaced.
LARGE_BYTES = 2**20
# What is longer is no entry.
LONGEST_LINE = 4096
SENT = "erased-vaults.sent.json"


@dataclass(frozen=True, slots=True)
class Sent:
    """How much of a file was sent to a bucket, and how many bytes that was there."""

    url: str = ""
    position: LedgerPosition = BEGINNING
    size: int = 0


_SENT = TypeAdapter(Sent)


class RemoteLedger:
    """The ledger in a bucket. It may be of several databases. Methods block, and raise BucketFailed."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.url = bucket.url

    def size(self) -> int:
        """Returns how many bytes there are."""
        return sum(about.size for about in self._objects())

    def parts(self) -> Iterator[list[ErasedVault]]:
        """Yields the entries, STEP_BYTES at a time."""
        read: set[str] = set()
        while unread := [about for about in self._objects() if about.name not in read]:
            for about in unread:
                # One that is gone was replaced by another, which the next list has.
                read.add(about.name)
                try:
                    yield from self._entries(about)
                except ObjectNotFound:
                    continue

    def add(self, lines: bytes) -> None:
        """Adds lines, of at most STEP_BYTES."""
        replaced = []
        for about in self._objects():
            if about.size >= LARGE_BYTES or len(lines) >= LARGE_BYTES:
                continue
            try:
                content = self._bucket.read_small(about.name, limit=LARGE_BYTES)
            except ObjectNotFound:
                # Another server has replaced it.
                continue
            if content is not None:
                lines = content + (b"" if content.endswith(b"\n") else b"\n") + lines
                replaced.append(about.name)
        self._bucket.write_small(f"erased-vaults.{uuid.uuid4().hex}.jsonl", lines)
        for name in replaced:
            self._bucket.delete(name)

    def _objects(self) -> list[Object]:
        return [about for about in self._bucket.list_objects() if OBJECT.fullmatch(about.name)]

    def _entries(self, about: Object) -> Iterator[list[ErasedVault]]:
        reading, rest = self._bucket.read(about), b""
        while content := reading.read(STEP_BYTES):
            content = rest + content
            whole = content.rfind(b"\n") + 1
            yield parse_entries(content[:whole])
            rest = content[whole : whole + LONGEST_LINE]
        yield parse_entries(rest)


class LedgerCopy:
    """Sends a file of the ledger to a bucket: what was not sent yet. `directory` has a note of how far that is."""

    def __init__(self, *, file: LedgerFile, remote: RemoteLedger, directory: Path) -> None:
        self._file = file
        self._remote = remote
        self._note = directory / SENT
        self._sent: Sent | None = None

    def send(self) -> None:
        """Sends what was not sent yet. Blocks, and raises BucketFailed and OSError."""
        sent = self._sent if self._sent is not None and self._file.holds(self._sent.position) else self._known()
        for entries, end in self._file.parts(sent.position):
            lines = format_entries(entries)
            if lines:
                self._remote.add(lines)
            sent = Sent(self._remote.url, end, sent.size + len(lines))
            self._write(sent)
        self._sent = sent

    def _known(self) -> Sent:
        """Returns what was sent before, nothing if the bucket has less than that."""
        try:
            sent = _SENT.validate_json(self._note.read_bytes())
        except (FileNotFoundError, ValidationError):
            sent = Sent()
        same = sent.url == self._remote.url and self._file.holds(sent.position)
        return sent if same and sent.size and self._remote.size() >= sent.size else Sent()

    def _write(self, sent: Sent) -> None:
        # Lost after a power failure, it is sent twice.
        partial = self._note.with_name(f"{SENT}.part")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(orjson.dumps(sent))
        os.replace(partial, self._note)
