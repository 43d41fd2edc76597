import pytest
from metamorphd.llm import offline


@pytest.fixture(autouse=True)
def quick_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams offline replies in a tenth of a second instead of more than one."""
    monkeypatch.setattr(offline, "WORD_SECONDS", 0.001)
