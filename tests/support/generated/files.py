"""Generated files, kept for the next run, by their layout, the schema and the generator."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metamorphd.store import migrations
from rich.progress import Progress

from tests.support.generated import corpus, layout, links, postings, stock
from tests.support.generated.generate import generate
from tests.support.generated.layout import ERASABLE_IF_FULL, Layout
from tests.support.paths import ROOT

FILES = ROOT / "data" / "bench"
FULL = Layout(10_000_000, 5_000, ERASABLE_IF_FULL)


@contextmanager
def measurable(wanted: Layout, files: Path, progress: Progress) -> Iterator[Path]:
    """Yields a file of a layout, which measuring changes: a copy, but of a full one the only one there is."""
    stored = files / f"{wanted.messages}-{wanted.vaults}-{_version()}.db"
    files.mkdir(parents=True, exist_ok=True)
    with _alone(files):
        if not stored.exists():
            generate(stored, wanted, progress)
    if wanted == FULL:
        yield stored
        return
    with tempfile.TemporaryDirectory(dir=files) as directory:
        copy = Path(directory) / stored.name
        shutil.copyfile(stored, copy)
        yield copy


@contextmanager
def _alone(files: Path) -> Iterator[None]:
    """Waits for other processes: harnesses that want the same file may begin at the same time."""
    directory = os.open(files, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _version() -> str:
    """Returns what files depend on beside their layout, the schema and the generator, as a hash."""
    sources = [statements for _, statements in migrations.load("sqlite")]
    sources += [Path(str(module.__file__)).read_text() for module in (corpus, layout, links, postings, stock)]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:8]
