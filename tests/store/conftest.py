from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorphd.store.sqlite.database import SqliteDatabase


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """An open database with nothing in it."""
    opened = SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="FULL")
    await opened.__aenter__()
    yield opened
    await opened.__aexit__()
