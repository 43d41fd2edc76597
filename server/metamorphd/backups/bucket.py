"""The directory of a bucket, by S3's protocol: objects that are written whole or not at all. Methods block."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from metamorphd.backups.sources import Write
from metamorphd.errors import StartupRefused

URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(?:/(?!\.)[A-Za-z0-9._-]+)*)/?")
# An upload may have 10,000 parts of at least 5 MiB (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
PART_BYTES = 8 * 2**20
MOST_PARTS = 9_000
# At once, which with the one that is being filled is what is in memory.
PARTS = 2
READ_BYTES = 8 * 2**20
# Of a request, which sends or returns a part at most.
TIMEOUT = "120s"
CONNECT_TIMEOUT = "10s"
RETRIES = 4
RETRY_TIMEOUT = timedelta(minutes=3)
REASON = re.compile(r"<Code>([^<]{1,100})</Code>(?:.*?<Message>([^<]{1,200})</Message>)?", re.DOTALL)
STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]{1,60})")
LONGEST_REASON = 200

T = TypeVar("T")


class BucketFailed(Exception):
    """The bucket cannot be reached, or refuses. The message says what it answered."""


class ObjectNotFound(BucketFailed):
    """There is no such object, or no such bucket."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks, and where. `endpoint` is None for AWS's own."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """An object. `name` is relative to the directory, and `version` changes with its content."""

    name: str
    size: int
    version: str = ""


class Reading:
    """An object's bytes from its beginning on, and the SHA-256 of those that were read."""

    def __init__(self, store: S3Store, about: Object) -> None:
        self._store = store
        self._about = about
        self._at = 0
        self._part = memoryview(b"")
        self._hashed = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hashed.hexdigest()

    def read(self, size: int, /) -> bytes:
        """Returns at most so many bytes, none at the end. Raises BucketFailed."""
        if not self._part and self._at < self._about.size:
            # In parts, each of which can be asked for again.
            end = min(self._at + READ_BYTES, self._about.size)
            self._part = memoryview(
                _asked(lambda: obstore.get_range(self._store, self._about.name, start=self._at, end=end))
            )
            self._at = end
        taken, self._part = bytes(self._part[:size]), self._part[size:]
        self._hashed.update(taken)
        return taken


class Bucket:
    """The objects below an address like `s3://bucket/prefix`. Raises StartupRefused for another."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        match = URL.fullmatch(url)
        if match is None:
            raise StartupRefused(f"{url} must be an address like s3://bucket/prefix")
        self.url = url.rstrip("/")
        config: Any = {
            "access_key_id": credentials.access_key_id,
            "secret_access_key": credentials.secret_access_key,
            "region": credentials.region,
        }
        if credentials.endpoint is not None:
            config["endpoint"] = credentials.endpoint
        self._store = S3Store(
            match["bucket"],
            prefix=match["prefix"].strip("/") or None,
            config=config,
            client_options={
                "allow_http": (credentials.endpoint or "").startswith("http://"),
                "timeout": TIMEOUT,
                "connect_timeout": CONNECT_TIMEOUT,
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_TIMEOUT},
        )

    def list_objects(self) -> Iterator[Object]:
        """Yields the objects, also those further below, in no order. Raises BucketFailed."""
        pages = iter(obstore.list(self._store))
        while (page := _asked(lambda: next(pages, None))) is not None:
            for found in page:
                yield Object(found["path"], found["size"], found.get("e_tag") or str(found["last_modified"]))

    def read(self, about: Object) -> Reading:
        """Returns what reads an object."""
        return Reading(self._store, about)

    def read_small(self, name: str, *, limit: int) -> bytes | None:
        """Returns an object's bytes, or None if it has more than the limit. Raises BucketFailed."""

        def ask() -> bytes | None:
            result = obstore.get(self._store, name)
            return bytes(result.bytes()) if result.meta["size"] <= limit else None

        return _asked(ask)

    def write_small(self, name: str, data: bytes) -> None:
        """Stores an object in place of the one that is there. Raises BucketFailed."""
        _asked(lambda: obstore.put(self._store, name, data))

    def write(self, name: str, produce: Callable[[Write], None], *, size: int) -> None:
        """Stores what `produce` writes, about `size` bytes. Raises BucketFailed, and what it raises.

        Then nothing is stored, and what was sent is discarded, unless the bucket cannot be reached for that. A part
        that was on its way may stay, for the bucket's rule about unfinished uploads.
        """
        part = max(PART_BYTES, -(-size // MOST_PARTS))
        with _failures():
            writer = obstore.open_writer(self._store, name, buffer_size=part, max_concurrency=PARTS)

        def send(data: bytes) -> None:
            with _failures():
                writer.write(data)

        try:
            produce(send)
        except BaseException as exc:
            with contextlib.suppress(Exception):
                writer.__exit__(type(exc), exc, exc.__traceback__)
            raise
        with _failures():
            writer.close()

    def delete(self, name: str) -> None:
        """Deletes an object, if it is there. Raises BucketFailed."""
        with contextlib.suppress(ObjectNotFound):
            _asked(lambda: obstore.delete(self._store, name))


def _asked(ask: Callable[[], T]) -> T:
    """Returns what the bucket answers. Raises BucketFailed.

    On the main thread, a signal ends the wait, which the library does not allow for.
    """
    if threading.current_thread() is not threading.main_thread():
        with _failures():
            return ask()
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as exc:
            answer.set_exception(exc)

    # What is asked for in vain does not keep the process from ending.
    threading.Thread(target=run, daemon=True).start()
    with _failures():
        return answer.result()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Replaces what the library raises, with its debugging output, by BucketFailed with what the bucket answered."""
    try:
        yield
    except BucketFailed:
        raise
    except FileNotFoundError as exc:
        raise ObjectNotFound(_reason(exc)) from exc
    except (BaseError, OSError, ValueError) as exc:
        raise BucketFailed(_reason(exc)) from exc


def _reason(exc: Exception) -> str:
    text = str(exc)
    if (match := REASON.search(text)) is not None:
        return ": ".join(filter(None, match.groups()))
    if (match := STATUS.search(text)) is not None:
        return f"the bucket answered {match[1]}"
    # Without the request, which is for the log.
    first, _, _ = text.partition("\n")
    return f"the bucket cannot be reached ({first.rpartition(' - ')[2][:LONGEST_REASON]})"
