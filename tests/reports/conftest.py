from collections.abc import Iterator

import pytest

from tests.support.fakes.sentry import FakeSentry


@pytest.fixture
def sentry() -> Iterator[FakeSentry]:
    """Yields a Sentry that accepts everything."""
    with FakeSentry() as started:
        yield started
