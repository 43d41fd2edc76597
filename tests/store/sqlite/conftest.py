from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.store.sqlite.engine import SqliteEngine


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """An open SQLite database with nothing in it."""
    async with SqliteEngine().database(tmp_path) as opened:
        yield opened
