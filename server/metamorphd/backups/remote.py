"""The copies of backups in a bucket, and what is known of each from its objects alone."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from metamorphd.backups.bucket import Bucket, Object, ObjectNotFound, Reading
from metamorphd.backups.directory import MANIFEST, NAME, always_kept, is_old, time_of
from metamorphd.backups.ledger_copy import RemoteLedger
from metamorphd.backups.packing import ENCRYPTED, STEP_BYTES, Keys, Packing, Reader, Unreadable, unpack
from metamorphd.backups.sources import Step, Write
from metamorphd.errors import BackupNotFound
from metamorphd.models.backup import Copy, Manifest

OBJECT = re.compile(rf"(?P<backup>{NAME.pattern})(?P<packed>(?:\.zst)?(?:\.age)?)(?P<manifest>\.json)?")
LARGEST_MANIFEST = 2**20

_COPY = TypeAdapter(Copy)


class Remote:
    """The copies in a bucket, and the erasure ledger beside them. Methods block, and raise BucketFailed."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.ledger = RemoteLedger(bucket)
        self._known: dict[tuple[str, str], Copy | None] = {}

    def url(self, name: str) -> str:
        """Returns the address of a copy."""
        return f"{self._bucket.url}/{name}"

    def list_copies(self) -> list[Copy]:
        """Returns the copies that are complete, newest first. Objects without a manifest are not."""
        objects = self._objects()
        found, known = [], {}
        for name, about in objects.items():
            stated = objects.get(f"{name}{MANIFEST}")
            if stated is None:
                continue
            key = (stated.name, stated.version)
            known[key] = self._known[key] if key in self._known else self._read_manifest(stated)
            if (copy := known[key]) is not None:
                found.append(_sized(copy, about.size))
        self._known = known
        return sorted(found, key=lambda copy: time_of(copy.manifest.name), reverse=True)

    def get_copy(self, name: str) -> tuple[Object, Copy | None]:
        """Returns the object of a copy, and what its manifest says, if it has one.

        `name` is the object's or the backup's. Raises BackupNotFound.
        """
        objects = self._objects()
        for found in (name, *(other for other in objects if backup_of(other) == name)):
            if found in objects and not found.endswith(MANIFEST):
                stated = objects.get(f"{found}{MANIFEST}")
                return objects[found], None if stated is None else self._read_manifest(stated)
        raise BackupNotFound(name=name)

    def read_copy(self, about: Object) -> Reading:
        """Returns what reads the object of a copy."""
        return self._bucket.read(about)

    def write_copy(
        self, file: Path, manifest: Manifest, *, packing: Packing, now: Callable[[], int], step: Step
    ) -> Copy:
        """Stores a copy of a backup's file, then its manifest. Raises Unreadable if the file is not as that says.

        A copy of the same name is replaced. Interrupted, there is none that looks complete.
        """
        name = f"{manifest.name}{packing.suffix}"
        # It would not be that of what is stored next.
        self._bucket.delete(f"{name}{MANIFEST}")
        sent, size = hashlib.sha256(), 0

        def produce(write: Write) -> None:
            def send(data: bytes) -> None:
                nonlocal size
                write(data)
                sent.update(data)
                size += len(data)

            with file.open("rb", buffering=0) as opened:
                plain = Hashed(opened, step)
                packing.pack(plain, send)
            if plain.sha256 != manifest.sha256:
                raise Unreadable(f"{manifest.name} is damaged: its SHA-256 is not that of its manifest")

        self._bucket.write(name, produce, size=manifest.size)
        copy = Copy(name=name, size=size, sha256=sent.hexdigest(), create_time=now(), manifest=manifest)
        self.write_manifest(copy)
        return copy

    def write_manifest(self, copy: Copy) -> None:
        """Stores what is known of a copy, in place of what was."""
        self._bucket.write_small(f"{copy.name}{MANIFEST}", orjson.dumps(copy, option=orjson.OPT_INDENT_2))

    def verify_copy(self, copy: Copy, *, keys: Keys, now: Callable[[], int], step: Step) -> Copy:
        """Reads a copy back, and returns it with what was found: a restore without writing.

        Unpacked, it must be the file that was verified when it was made, byte by byte. One that cannot be decrypted for
        want of an identity is compared as it was sent.
        """
        reading, plain, faults = self._bucket.read(Object(copy.name, copy.size)), hashlib.sha256(), []
        source, unpacks = Hashed(reading, step), bool(keys.identities) or not copy.name.endswith(ENCRYPTED)
        try:
            if unpacks:
                unpack(copy.name, source, limited(plain.update, copy.manifest.size), keys=keys)
            else:
                while source.read(STEP_BYTES):
                    pass
        except Unreadable as exc:
            faults.append(str(exc))
        else:
            if reading.sha256 != copy.sha256:
                faults.append("its SHA-256 is not that of its manifest")
            if unpacks and plain.hexdigest() != copy.manifest.sha256:
                faults.append("unpacked, its SHA-256 is not that of the backup")
        return replace(copy, verify_time=now(), faults=tuple(faults))

    def prune_copies(self, copies: list[Copy], *, now: int, days: float) -> list[str]:
        """Deletes the copies that are older, and what is left of others, but never the newest good one of a database.

        If there is no good one, nothing is deleted. Returns the names.
        """
        good = [copy for copy in copies if not copy.faults]
        if not good:
            return []
        names = always_kept(copy.manifest for copy in good)
        # Of two of a backup, packed differently, one is enough.
        kept = {copy.manifest.name: copy.name for copy in reversed(good) if copy.manifest.name in names}.values()
        expired = [
            name
            for name in self._objects()
            if not name.endswith(MANIFEST) and name not in kept and is_old(backup_of(name), now, days=days)
        ]
        for name in expired:
            # First, so that there is none for an object that is gone.
            self._bucket.delete(f"{name}{MANIFEST}")
            self._bucket.delete(name)
        return expired

    def _objects(self) -> dict[str, Object]:
        return {about.name: about for about in self._bucket.list_objects() if _is_ours(about.name)}

    def _read_manifest(self, about: Object) -> Copy | None:
        try:
            content = self._bucket.read_small(about.name, limit=LARGEST_MANIFEST)
        except ObjectNotFound:
            # Just deleted.
            return None
        copy = None if content is None else parse_copy(content)
        return copy if copy is not None and f"{copy.name}{MANIFEST}" == about.name else None


class Hashed:
    """A reader of what another one reads, with its SHA-256 so far."""

    def __init__(self, source: Reader, step: Step) -> None:
        self._source = source
        self._step = step
        self._hashed = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hashed.hexdigest()

    def read(self, size: int, /) -> bytes:
        chunk = self._source.read(size)
        self._hashed.update(chunk)
        self._step(len(chunk))
        return chunk


def limited(write: Write, size: int) -> Write:
    """Returns what writes at most so many bytes, and raises Unreadable if there are more."""
    written = 0

    def guarded(data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > size:
            raise Unreadable(f"it has more than the {size:,} bytes of its manifest")
        write(data)

    return guarded


def parse_copy(content: bytes) -> Copy | None:
    """Returns what the manifest of a copy says, or None if it makes no sense: others may write to a bucket."""
    try:
        copy = _COPY.validate_json(content)
        time_of(copy.manifest.name)
    except (ValidationError, BackupNotFound):
        return None
    return copy if backup_of(copy.name) == copy.manifest.name and copy.size >= 0 and copy.manifest.size >= 0 else None


def backup_of(name: str) -> str:
    """Returns the name of the backup that an object is a copy of, or nothing if it is none."""
    match = OBJECT.fullmatch(name)
    return "" if match is None or match["manifest"] else match["backup"]


def _is_ours(name: str) -> bool:
    match = OBJECT.fullmatch(name)
    if match is None:
        return False
    try:
        time_of(match["backup"])
    except BackupNotFound:
        return False
    return True


def _sized(copy: Copy, size: int) -> Copy:
    if copy.size == size:
        return copy
    return replace(copy, faults=(f"the object has {size:,} bytes, not {copy.size:,}", *copy.faults))
