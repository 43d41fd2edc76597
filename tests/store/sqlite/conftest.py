import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.store.sqlite.engine import SqliteEngine

MEGABYTES = 64


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """Yields an open, empty SQLite database."""
    async with SqliteEngine().database(tmp_path) as opened:
        yield opened


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Yields a small volume of its own."""
    mounted = tmp_path / "volume"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(mounted)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("mounting a volume needs root")
        pytest.skip("mounting a volume needs root")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)
