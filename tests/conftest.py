import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database

from tests.support.caller import Caller
from tests.support.engines import ENGINES, Engine
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.serving import Serving, serving

# A shell ignores SIGINT in its background jobs, and the processes that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides environment variables and the developer's own .env from tests."""
    names = [name.upper() for name in Settings.model_fields]
    names += [f"METAMORPH_{name.upper()}" for name in ClientSettings.model_fields]
    for name in [*names, *(name for name in os.environ if name.startswith(("RAILWAY_", "ANTHROPIC_")))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name, scope="session")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each database engine in turn."""
    chosen: Engine = request.param
    return chosen


@pytest.fixture
async def database(engine: Engine, tmp_path: Path) -> AsyncIterator[Database]:
    """An open database of each engine, with nothing in it."""
    engine.create(tmp_path)
    async with engine.database(tmp_path) as opened:
        yield opened


@pytest.fixture
def overrides() -> dict[str, Any]:
    """Returns the settings of `running` that differ from those of `serving`."""
    return {}


@pytest.fixture
async def running(tmp_path: Path, overrides: dict[str, Any]) -> AsyncIterator[Serving]:
    """Yields a server with offline replies."""
    async with serving(tmp_path, **overrides) as started:
        yield started


@pytest.fixture
async def api() -> AsyncIterator[FakeMessagesApi]:
    """Yields a Messages API that echoes its prompt unless a test sets another behaviour."""
    async with FakeMessagesApi() as started:
        yield started


@pytest.fixture
def alice(running: Serving) -> Caller:
    """Returns a user of the vault `acme` with every permission except operator."""
    return running.caller()


@pytest.fixture
def mallory(running: Serving) -> Caller:
    """Returns a user of another vault."""
    return running.caller(vault="evil", user="mallory")
