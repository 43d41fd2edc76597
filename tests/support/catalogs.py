"""Catalogs for tests."""

import json
from importlib import resources
from pathlib import Path


def permissive(directory: Path) -> Path:
    """Returns a file of the built-in catalog whose models accept every option."""
    catalog = json.loads(resources.files("metamorphd").joinpath("catalog.json").read_text())
    for model in catalog["models"]:
        del model["capabilities"]
    path = directory / "permissive.json"
    path.write_text(json.dumps(catalog))
    return path
