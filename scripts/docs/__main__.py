"""Writes the generated pages: `.env.example`, and in docs/ settings.md, errors.md, api.md and metrics.md."""

from collections.abc import Callable

from scripts.docs.api import api_page
from scripts.docs.errors import errors_page
from scripts.docs.metrics import metrics_page
from scripts.docs.protos import ROOT
from scripts.docs.settings import env_example, settings_page

PAGES: dict[str, Callable[[], str]] = {
    ".env.example": env_example,
    "docs/settings.md": settings_page,
    "docs/errors.md": errors_page,
    "docs/api.md": api_page,
    "docs/metrics.md": metrics_page,
}

if __name__ == "__main__":
    for page, render in PAGES.items():
        (ROOT / page).write_text(render())
