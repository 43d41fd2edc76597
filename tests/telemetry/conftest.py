from collections.abc import AsyncIterator

import pytest

from tests.support.fakes.otlp_receiver import OtlpReceiver


@pytest.fixture
async def receiver() -> AsyncIterator[OtlpReceiver]:
    """Yields a receiver of traces and metrics."""
    async with OtlpReceiver() as started:
        yield started
