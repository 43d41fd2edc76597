from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.serving import Serving, asking


@pytest.fixture
async def running(api: FakeMessagesApi, tmp_path: Path, overrides: dict[str, Any]) -> AsyncIterator[Serving]:
    """Yields a server whose replies come from `api`."""
    async with asking(api, tmp_path, **overrides) as started:
        yield started
