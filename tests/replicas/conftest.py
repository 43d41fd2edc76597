"""Where replicas are: in a directory and in a bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import bucket_server
from tests.support.litestream import Target, in_bucket, in_directory


@pytest.fixture(params=["file", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "file":
        yield in_directory(tmp_path / "replica")
        return
    with bucket_server(tmp_path / "bucket") as store:
        yield in_bucket(store)


@pytest.fixture
def directory_target(tmp_path: Path) -> Target:
    return in_directory(tmp_path / "replica")
