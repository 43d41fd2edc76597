"""The chain of a vault's log: each entry is authenticated together with all that precede it.

An entry's MAC is HMAC-SHA-256 (RFC 2104) over the MAC of the entry before and the entry's own fields. The lengths of
all come first: joined plainly, different entries could be equal.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ENTRY, CUT, HEAD = b"metamorph log entry 1", b"metamorph log cut 1", b"metamorph log head 1"
LENGTHS_OF_ENTRY = struct.Struct(">13I")
LENGTHS_OF_CUT = struct.Struct(">5I")
LENGTHS_OF_HEAD = struct.Struct(">4I")


class Entry(NamedTuple):
    """An entry as it is stored, without its MAC. `detail` is JSON, or empty. `operator` is 1 for the operator's own."""

    vault_id: str
    revision: int
    change_time: int
    actor: str
    operator: int
    call_id: str
    resource: str
    resource_id: str
    verb: str
    detail: str


class Head(NamedTuple):
    """The end of a log, or of the part of it that was deleted: a revision, 0 for nothing, and the MAC of its entry."""

    revision: int
    mac: bytes


BEGINNING = Head(0, b"")


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it is stored, which may be anything that somebody has written there.

    If not even its text is one, it is not `readable`: then only its vault, its revision and its MAC are known.
    """

    entry: Entry
    key_id: str
    mac: bytes
    readable: bool = True


@dataclass(frozen=True, slots=True)
class LogBeginning:
    """Where a log begins: after `cut`, the last entry that the server has deleted. `seal` says that it was the server.

    `cut` is that of nothing, and the rest empty, if nothing was deleted.
    """

    cut: Head
    key_id: str
    seal: bytes


@dataclass(frozen=True, slots=True)
class ChainKey:
    """A key of 32 bytes, and its ID, which reveals nothing of it."""

    key_id: str
    key: bytes = field(repr=False)


class Chain:
    """Authenticates logs with the first of its keys, and checks them with all.

    Without a key it authenticates nothing: MACs are empty, and so is `key_id`.
    """

    def __init__(self, keys: Sequence[ChainKey] = ()) -> None:
        self._keys = {key.key_id: key.key for key in keys}
        self._ages = {key.key_id: age for age, key in enumerate(keys)}
        self.key_id = keys[0].key_id if keys else ""

    def link(self, previous: bytes, entry: Entry) -> bytes:
        """Returns the MAC of an entry that follows one with the MAC `previous`, which is empty for the first."""
        return self.mac_of(previous, entry, self.key_id) if self.key_id else b""

    def mac_of(self, previous: bytes, entry: Entry, key_id: str) -> bytes:
        """Returns the MAC of an entry by the key with this ID. Raises KeyError if there is none."""
        vault_id, revision, change_time, actor, operator, call_id, resource, resource_id, verb, detail = entry
        parts = (
            ENTRY,
            previous,
            key_id.encode(),
            vault_id.encode(),
            b"%d" % revision,
            b"%d" % change_time,
            actor.encode(),
            b"%d" % operator,
            call_id.encode(),
            resource.encode(),
            resource_id.encode(),
            verb.encode(),
            detail.encode(),
        )
        body = LENGTHS_OF_ENTRY.pack(*map(len, parts)) + b"".join(parts)
        return hmac.digest(self._keys[key_id], body, "sha256")

    def seal(self, vault_id: str, cut: Head) -> bytes:
        """Returns the MAC of the statement that a vault's log was deleted up to `cut`, because of its age."""
        return self.seal_of(vault_id, cut, self.key_id) if self.key_id else b""

    def seal_of(self, vault_id: str, cut: Head, key_id: str) -> bytes:
        """Returns that MAC by the key with this ID. Raises KeyError if there is none."""
        parts = (CUT, key_id.encode(), vault_id.encode(), b"%d" % cut.revision, cut.mac)
        return hmac.digest(self._keys[key_id], LENGTHS_OF_CUT.pack(*map(len, parts)) + b"".join(parts), "sha256")

    @property
    def oldest_age(self) -> int:
        """Returns the age of the oldest key, -1 if there is none."""
        return len(self._ages) - 1

    def age_of(self, key_id: str) -> int | None:
        """Returns 0 for the current key, 1 for the one before it and so on, or None for one that is not held."""
        return self._ages.get(key_id)


class HeadsDigest:
    """A SHA-256 over the ends of all logs, added in the order of vaults' IDs, and their number."""

    def __init__(self) -> None:
        self._hashed = hashlib.sha256()
        self.count = 0

    def add(self, vault_id: str, head: Head) -> None:
        """Adds the end of a vault's log."""
        parts = (HEAD, vault_id.encode(), b"%d" % head.revision, head.mac)
        self._hashed.update(LENGTHS_OF_HEAD.pack(*map(len, parts)) + b"".join(parts))
        self.count += 1

    @property
    def digest(self) -> bytes:
        """Returns the 32 bytes of the digest of what was added so far."""
        return self._hashed.digest()
