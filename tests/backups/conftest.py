"""Fixtures of tests of copies."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from metamorphd.backups.directory import Directory

from tests.support.buckets import Store, bucket_server
from tests.support.copies import SetClock


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with bucket_server(tmp_path / "bucket") as running:
        yield running


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(tmp_path / "backups")
    made.prepare()
    return made
