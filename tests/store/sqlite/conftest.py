from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.store.sqlite.engine import SqliteEngine


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """Yields an open, empty SQLite database."""
    async with SqliteEngine().database(tmp_path) as opened:
        yield opened
