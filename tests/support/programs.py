"""Programs that are not Python's, and may be absent where nobody develops their part."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def require(name: str, *, hint: str, installed: Path | None = None) -> str:
    """A program's path. Where it is absent the test is skipped, in CI it fails."""
    found = shutil.which(name, path=f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")
    if found is not None and (installed is None or installed.exists()):
        return found
    reason = f"{name} is needed here: {hint}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
