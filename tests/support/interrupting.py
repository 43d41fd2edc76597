"""Work on files that ends in the middle."""

import os
from collections.abc import Callable
from typing import Any

import pytest


def interrupting(monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], *, at: int) -> Callable[[], int]:
    """Raises in a call that changes a directory, the first one being 1. Returns how many there were so far."""
    calls = 0

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise raised
            return real(*arguments, **named)

        return call

    for name in ("replace", "fsync", "unlink"):
        monkeypatch.setattr(os, name, counted(name))
    return lambda: calls
