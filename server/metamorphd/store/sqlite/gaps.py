"""Clears the gaps of pages, where copies of deleted rows would stay.

With secure_delete SQLite overwrites a deleted row where it is. When rows move between the pages of a tree, the page
that they leave keeps a copy of them in its gap, the unallocated space between its cell pointers and its cells (SQLite
Database File Format, 1.6). Nothing ever reads a gap, so it is cleared in the file itself, between checkpoints, once a
page is copied there. Torn by a power failure, such a write still leaves every byte as it was or zero.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

# SQLite's default, which no pragma of ours changes.
PAGE_BYTES = 4096
FRAME_HEADER_BYTES, LOG_HEADER_BYTES = 24, 32
SALT_AT, SALT_BYTES = 16, 8
# The first page begins with the header of the file.
FILE_HEADER_BYTES = 100
# By the kind of a b-tree page: the size of its header.
HEADER_BYTES = {2: 12, 5: 12, 10: 8, 13: 8}
# From this number on, the beginning of an overflow page could look like that of a b-tree page: 128 GiB.
FIRST_AMBIGUOUS_PAGE = 2 << 24
ZEROS = bytes(PAGE_BYTES)
SWEPT_PAGES = 256

logger = structlog.get_logger(__name__)


def gap_of(page: bytes, *, first: bool) -> tuple[int, int] | None:
    """Returns where the gap of a page begins and ends, or None if it is not a page of a b-tree."""
    at = FILE_HEADER_BYTES if first else 0
    header = HEADER_BYTES.get(page[at])
    if header is None:
        return None
    cells = int.from_bytes(page[at + 3 : at + 5])
    start, end = at + header + 2 * cells, int.from_bytes(page[at + 5 : at + 7]) or 65_536
    return (start, end) if start <= end <= PAGE_BYTES else None


class Gaps:
    """The gaps of a file's pages. `path` is the database, whose log is beside it.

    A file beside them says that gaps may be uncleared of which nothing is known, as after a crash: then all of the file
    is swept once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marker = Path(f"{path}-unswept")
        self._file = self._log = -1
        # The pages whose gaps may be uncleared, with the number of the frame that last held each.
        self._pages: dict[int, int] = {}
        self._lock = threading.Lock()
        # Frames are numbered on when SQLite starts the log anew, which changes its salt.
        self._salt = b""
        self._begun = self._frames = 0
        self._next_swept = 1
        # By page, 1 if it may differ from the file in its gap.
        self._copied: bytearray | None = None

    def open(self, *, clean: bool) -> None:
        """Opens the file and its log, which the database has made. If it was not `clean`ly closed, it will be swept.

        They stay open until the database is closed: closing a file drops all locks that the process has on it.
        """
        if not clean:
            self._sweep_all()
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._log = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Closes the files. To be called after the database is closed."""
        if self._pages:
            self._sweep_all()
        for file in (self._file, self._log):
            if file >= 0:
                os.close(file)
        self._file = self._log = -1

    def note(self, frames: int) -> None:
        """Notes which pages the log holds. `frames` is how many frames it has. To be called after each commit."""
        try:
            self._note(frames)
        except OSError as exc:
            # The commit is done, and must not fail.
            self._failed(exc)

    def _note(self, frames: int) -> None:
        with self._lock:
            salt = os.pread(self._log, SALT_BYTES, SALT_AT)
            if salt != self._salt:
                self._salt, self._begun, self._frames = salt, self._begun + self._frames, 0
            for frame in range(self._frames, frames):
                at = LOG_HEADER_BYTES + frame * (FRAME_HEADER_BYTES + PAGE_BYTES)
                page = int.from_bytes(os.pread(self._log, 4, at))
                self._pages[page] = self._begun + frame
                if self._copied is not None:
                    _mark(self._copied, page)
            self._frames = max(self._frames, frames)

    @property
    def file(self) -> int:
        """A descriptor of the database, which is open as long as the database is."""
        return self._file

    def watch(self) -> None:
        """Begins to note which pages a copy of the database may have with uncleared gaps. Called between commits."""
        with self._lock:
            self._copied = bytearray()
            for page in self._pages:
                _mark(self._copied, page)

    def unwatch(self) -> None:
        """Ends what `watch` began."""
        self._copied = None

    def clear_copy(self, file: int) -> None:
        """Clears the gaps of a copy, which is complete and in `file`. All of them, if the database is to be swept."""
        noted = self._copied or b""
        pages = range(1, os.fstat(file).st_size // PAGE_BYTES + 1) if self._marker.exists() else _marked(noted)
        for page in pages:
            self._clear(file, page)

    @property
    def begun(self) -> int:
        """The number of the log's first frame. All earlier ones are copied."""
        return self._begun

    def clear(self, before: int | None) -> None:
        """Clears the gaps of pages whose frames have numbers below `before`, and so are copied; None: of all pages."""
        with self._lock:
            due = {page: frame for page, frame in self._pages.items() if before is None or frame < before}
        try:
            for page in sorted(due):
                self._clear(self._file, page)
        except OSError as exc:
            self._failed(exc)
        with self._lock:
            for page, frame in due.items():
                if self._pages[page] == frame:
                    del self._pages[page]

    def sync(self) -> None:
        """Returns once what was cleared is durable."""
        try:
            os.fdatasync(self._file)
        except OSError as exc:
            self._failed(exc)

    def sweep(self) -> bool:
        """Clears the gaps of the next pages of the file, if all of it is to be swept. Returns whether others follow."""
        if not self._marker.exists():
            return False
        end = min(self._next_swept + SWEPT_PAGES, os.fstat(self._file).st_size // PAGE_BYTES + 1)
        for page in range(self._next_swept, end):
            self._clear(self._file, page)
        if end == self._next_swept:
            self.sync()
            self._marker.unlink()
        self._next_swept = end
        return True

    def _failed(self, exc: OSError) -> None:
        logger.warning("gaps of pages cannot be cleared; the whole file will be swept", error=str(exc))
        self._sweep_all()

    def _sweep_all(self) -> None:
        self._next_swept = 1
        # On a full volume, too, nothing of the database depends on it.
        with contextlib.suppress(OSError):
            self._marker.touch(mode=0o600)

    @staticmethod
    def _clear(file: int, number: int) -> None:
        at = (number - 1) * PAGE_BYTES
        page = os.pread(file, PAGE_BYTES, at)
        if len(page) < PAGE_BYTES or number >= FIRST_AMBIGUOUS_PAGE:
            return
        gap = gap_of(page, first=number == 1)
        if gap is not None and page.count(0, *gap) < gap[1] - gap[0]:
            os.pwrite(file, ZEROS[: gap[1] - gap[0]], at + gap[0])


def _mark(marks: bytearray, page: int) -> None:
    if page >= len(marks):
        marks.extend(bytes(page + 1 - len(marks)))
    marks[page] = 1


def _marked(marks: bytes | bytearray) -> Iterator[int]:
    page = marks.find(1)
    while page >= 0:
        yield page
        page = marks.find(1, page + 1)
