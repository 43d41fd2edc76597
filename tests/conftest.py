import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from metamorphd.settings import ClientSettings, Settings

from tests.support.serving import Caller, Serving, serving


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that is set outside, nor a developer's own .env, reaches a test."""
    names = [name.upper() for name in Settings.model_fields]
    names += [f"METAMORPH_{name.upper()}" for name in ClientSettings.model_fields]
    for name in [*names, *(name for name in os.environ if name.startswith(("RAILWAY_", "ANTHROPIC_")))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Serving]:
    """A server with offline replies."""
    async with serving(tmp_path) as serving_now:
        yield serving_now


@pytest.fixture
def alice(running: Serving) -> Caller:
    """A user of the vault `acme` with every permission but operator."""
    return running.caller()


@pytest.fixture
def mallory(running: Serving) -> Caller:
    """A user of another vault."""
    return running.caller(vault="evil", user="mallory")
