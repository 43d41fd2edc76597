"""How a copy leaves the machine: compressed by Zstandard (RFC 8878), then encrypted in the age format.

The formats are those of the tools `zstd` and `age` (https://age-encryption.org/v1), which open such a file too. All of
it is streamed: memory does not depend on the size of what is packed.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyrage
from pyrage import x25519

from metamorphd.backups.sources import Write
from metamorphd.errors import StartupRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSED, ENCRYPTED = ".zst", ".age"
STEP_BYTES = 128 * 1024
# A few bytes may say that there are gigabytes.
UNPACKED_BYTES = 2**20
LEVEL = 3


class Reader(Protocol):
    """A source of bytes to pack or unpack. Returns nothing at its end."""

    def read(self, size: int, /) -> bytes: ...


class Unreadable(Exception):
    """A packed file cannot be unpacked: it is damaged, or encrypted for other keys. The message says which."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """For whom is encrypted, and what can be decrypted with."""

    recipients: tuple[x25519.Recipient, ...] = ()
    identities: tuple[x25519.Identity, ...] = ()


def parse_keys(text: str) -> Keys:
    """Returns the keys of BACKUP_ENCRYPTION_KEY: age recipients and identities, separated by commas, or none.

    The recipient of an identity is one as well. Raises StartupRefused, without the text.
    """
    recipients, identities = [], []
    for key in filter(None, map(str.strip, text.split(","))):
        try:
            if key.startswith("AGE-SECRET-KEY-"):
                identities.append(x25519.Identity.from_str(key))
                recipients.append(identities[-1].to_public())
            else:
                recipients.append(x25519.Recipient.from_str(key))
        except (pyrage.IdentityError, pyrage.RecipientError):
            raise StartupRefused(
                "BACKUP_ENCRYPTION_KEY must be age recipients (age1…) or identities (AGE-SECRET-KEY-1…), separated by "
                "commas; `age-keygen` makes one"
            ) from None
    return Keys(tuple(recipients), tuple(identities))


@dataclass(frozen=True, slots=True)
class Packing:
    """How copies are packed: compressed or not, and encrypted if there are recipients."""

    compressed: bool = False
    keys: Keys = Keys()

    @property
    def suffix(self) -> str:
        """Returns the suffix of a packed file's name."""
        return COMPRESSED * self.compressed + ENCRYPTED * bool(self.keys.recipients)

    def pack(self, source: Reader, write: Write) -> None:
        """Writes what is read, packed. Raises what reading and writing raise."""
        reader: Reader = _Compressing(source) if self.compressed else source
        if not self.keys.recipients:
            _pass_on(reader, write)
            return
        ends = _Ends(reader, write)
        try:
            pyrage.encrypt_io(ends, ends, list(self.keys.recipients))
        except Exception:
            ends.raise_own()
            raise


def unpack(name: str, source: Reader, write: Write, *, keys: Keys) -> None:
    """Writes what was packed, as the suffixes of its name say. Raises Unreadable, and what reading and writing raise.

    What is written before is not whole, and must not be used.
    """
    plain = name.removesuffix(ENCRYPTED)
    decompressing = _Decompressing(write) if plain.endswith(COMPRESSED) else None
    sink = write if decompressing is None else decompressing.write
    if plain == name:
        _pass_on(source, sink)
    else:
        _decrypt(source, sink, keys)
    if decompressing is not None:
        decompressing.finish()


def _decrypt(source: Reader, write: Write, keys: Keys) -> None:
    if not keys.identities:
        raise Unreadable("it is encrypted; set BACKUP_ENCRYPTION_KEY to its identity, AGE-SECRET-KEY-1…")
    ends = _Ends(source, write)
    try:
        pyrage.decrypt_io(ends, ends, list(keys.identities))
    except Exception as exc:
        ends.raise_own()
        if "No matching keys" in str(exc):
            raise Unreadable("it is encrypted for other keys than BACKUP_ENCRYPTION_KEY has") from exc
        raise Unreadable(f"it cannot be decrypted ({exc})") from exc


def _pass_on(source: Reader, write: Write) -> None:
    while chunk := source.read(STEP_BYTES):
        write(chunk)


class _Ends:
    """Both ends of what `pyrage` does, which replaces what they raise by errors of its own."""

    def __init__(self, source: Reader, write: Write) -> None:
        self._source = source
        self._write = write
        self._raised: BaseException | None = None

    def read(self, size: int, /) -> bytes:
        try:
            return self._source.read(size)
        except BaseException as exc:
            self._raised = exc
            raise

    def write(self, data: bytes, /) -> int:
        try:
            self._write(data)
        except BaseException as exc:
            self._raised = exc
            raise
        # All of it: what is left would not be written again.
        return len(data)

    def flush(self) -> None:
        """Does nothing: nothing is kept."""

    def raise_own(self) -> None:
        if self._raised is not None:
            raise self._raised


class _Compressing:
    """A reader of what another one reads, compressed."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        # With a checksum, the tool notices damage too.
        options: Mapping[int, int] = {
            zstd.CompressionParameter.compression_level: LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        self._compressor = zstd.ZstdCompressor(options=options)
        self._ready = bytearray()
        self._ended = False

    def read(self, size: int, /) -> bytes:
        while len(self._ready) < size and not self._ended:
            chunk = self._source.read(STEP_BYTES)
            self._ended = not chunk
            self._ready += self._compressor.compress(chunk) if chunk else self._compressor.flush()
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken


class _Decompressing:
    """Writes what it is given, decompressed."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._decompressor = zstd.ZstdDecompressor()

    def write(self, data: bytes) -> None:
        while True:
            if self._decompressor.eof:
                raise Unreadable("it has more after its end")
            try:
                plain = self._decompressor.decompress(data, max_length=UNPACKED_BYTES)
            except zstd.ZstdError as exc:
                raise Unreadable(f"it cannot be decompressed ({exc})") from exc
            if plain:
                self._write(plain)
            data = self._decompressor.unused_data if self._decompressor.eof else b""
            if not data and (self._decompressor.eof or self._decompressor.needs_input):
                return

    def finish(self) -> None:
        """Raises Unreadable if the end is missing."""
        if not self._decompressor.eof:
            raise Unreadable("its end is missing")
