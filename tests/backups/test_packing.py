"""What leaves the machine is packed so that the usual tools open it, and is never taken for whole if it is not."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pyrage
import pytest
from metamorphd.backups.packing import Packing, Unreadable, parse_keys, unpack
from metamorphd.errors import StartupRefused

from tests.support.programs import require

IDENTITY = pyrage.x25519.Identity.generate()
KEYS = parse_keys(str(IDENTITY))
# Some of it can be compressed, and it has no round number of anything.
# So long that it is not in random bytes by chance.
END = b"the end of a backup"
PLAIN = os.urandom(700_001) + bytes(900_000) + END
EVERY = [Packing(compressed, keys) for compressed in (False, True) for keys in (parse_keys(""), KEYS)]
CHECKED = [packing for packing in EVERY if packing.suffix]


def packed(packing: Packing, plain: bytes = PLAIN) -> bytes:
    written = BytesIO()
    packing.pack(BytesIO(plain), written.write)
    return written.getvalue()


def unpacked(packing: Packing, content: bytes, keys: object = KEYS) -> bytes:
    written = BytesIO()
    unpack(f"copy.db{packing.suffix}", BytesIO(content), written.write, keys=keys)  # type: ignore[arg-type]
    return written.getvalue()


@pytest.mark.parametrize("packing", EVERY, ids=lambda packing: packing.suffix or "plain")
@pytest.mark.parametrize("plain", [b"", b"x", bytes(65536), PLAIN], ids=len)
def test_what_is_packed_is_unpacked(packing: Packing, plain: bytes) -> None:
    assert unpacked(packing, packed(packing, plain)) == plain


@pytest.mark.parametrize("packing", CHECKED, ids=lambda packing: packing.suffix)
def test_what_is_cut_changed_or_continued_is_unreadable(packing: Packing) -> None:
    content = packed(packing)
    damaged = [content[:length] for length in (0, 10, 70_000, len(content) // 2, len(content) - 1)]
    damaged += [content + b"\0", content + content, b"SQLite format 3\0" * 1000]
    for place in (100, len(content) // 2, len(content) - 2):
        changed = bytearray(content)
        changed[place] ^= 1
        damaged.append(bytes(changed))
    for wrong in damaged:
        with pytest.raises(Unreadable):
            unpacked(packing, wrong)


def test_what_is_encrypted_is_opened_by_its_identities_alone() -> None:
    content = packed(Packing(keys=KEYS))
    assert END not in content
    other = pyrage.x25519.Identity.generate()
    with pytest.raises(Unreadable, match="for other keys than BACKUP_ENCRYPTION_KEY has"):
        unpacked(Packing(keys=KEYS), content, parse_keys(str(other)))
    with pytest.raises(Unreadable, match="set BACKUP_ENCRYPTION_KEY to its identity"):
        unpacked(Packing(keys=KEYS), content, parse_keys(str(IDENTITY.to_public())))
    # A key that is being replaced: both are set for a while.
    assert unpacked(Packing(keys=KEYS), content, parse_keys(f"{other}, {IDENTITY}")) == PLAIN
    for_both = packed(Packing(keys=parse_keys(f"{other.to_public()},{IDENTITY}")))
    assert unpacked(Packing(keys=KEYS), for_both, parse_keys(str(other))) == PLAIN


@pytest.mark.parametrize("text", ["secret", "age1nothing", "AGE-SECRET-KEY-1NOTHING", "two of them"])
def test_a_key_that_is_none_is_refused_and_not_shown(text: str) -> None:
    text = f"{IDENTITY} {IDENTITY}" if text == "two of them" else text
    with pytest.raises(StartupRefused, match="BACKUP_ENCRYPTION_KEY must be age recipients") as refusal:
        parse_keys(text)
    assert text not in str(refusal.value)


def test_the_age_tool_opens_what_is_encrypted(tmp_path: Path) -> None:
    age = require("age", hint="`make tools`")
    (tmp_path / "key").write_text(str(IDENTITY))
    (tmp_path / "copy.age").write_bytes(packed(Packing(keys=KEYS)))
    opened = subprocess.run([age, "-d", "-i", tmp_path / "key", tmp_path / "copy.age"], capture_output=True, check=True)
    assert opened.stdout == PLAIN
    made = subprocess.run([age, "-r", str(IDENTITY.to_public())], input=PLAIN, capture_output=True, check=True).stdout
    assert unpacked(Packing(keys=KEYS), made) == PLAIN


@pytest.mark.parametrize("end", ["read", "write"])
@pytest.mark.parametrize("packing", EVERY, ids=lambda packing: packing.suffix or "plain")
def test_what_reading_or_writing_raises_is_raised(packing: Packing, end: str) -> None:
    class Gone(Exception):
        pass

    class Failing(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if end == "read" and self.tell() > 500_000:
                raise Gone
            return super().read(size)

    def write(data: bytes) -> None:
        if end == "write":
            raise Gone

    with pytest.raises(Gone):
        packing.pack(Failing(PLAIN), write)
    with pytest.raises(Gone):
        unpack(f"copy.db{packing.suffix}", Failing(packed(packing)), write, keys=KEYS)


MEASURED = """
import hashlib, resource, sys
from metamorphd.backups.packing import Packing, parse_keys, unpack

class Long:
    def __init__(self, size):
        self.left, self.block = size, hashlib.sha512(b"x").digest() * 16384
    def read(self, size, /):
        chunk = self.block[: min(size, self.left)]
        self.left -= len(chunk)
        return chunk

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keys = parse_keys(sys.argv[1])
with open(sys.argv[2], "wb") as file:
    Packing(sys.argv[3] == "zstd", keys).pack(Long(int(sys.argv[4])), file.write)
size = 0
def write(data):
    global size
    size += len(data)
name = "copy.zst.age" if sys.argv[3] == "zstd" else "copy.age"
with open(sys.argv[2], "rb") as file:
    unpack(name, file, write, keys=keys)
assert size == int(sys.argv[4]), size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_memory_does_not_depend_on_the_size(tmp_path: Path, compression: str) -> None:
    # With zstd, the same content again and again: each byte that arrives is thousands.
    size = 300 * 2**20
    arguments = [str(IDENTITY), str(tmp_path / "packed"), compression, str(size)]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, check=True, text=True)
    assert int(done.stdout) < 40_000
