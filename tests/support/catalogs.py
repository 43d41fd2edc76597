"""Catalogs for tests."""

import json
from importlib import resources
from pathlib import Path
from typing import Any


def permissive(directory: Path) -> Path:
    """Returns a file of the built-in catalog whose models accept every option."""
    catalog = json.loads(resources.files("metamorphd").joinpath("catalog.json").read_text())
    for model in catalog["models"]:
        del model["capabilities"]
    path = directory / "permissive.json"
    path.write_text(json.dumps(catalog))
    return path


def dollars(**prices: float) -> dict[str, float]:
    """Returns the prices of a file, with the given ones replaced."""
    return {"input": 2, "output": 10, "cache_read": 0.2, "cache_write": 2.5} | prices


def entry(**fields: Any) -> dict[str, Any]:
    """Returns a model entry of a file, without the fields that are None."""
    values: dict[str, Any] = {
        "model": "m",
        "display_name": "M",
        "context_tokens": 1000,
        "max_output_tokens": 100,
        "prices": [{"above_input_tokens": 0, "usd_per_million_tokens": dollars()}],
    }
    return {name: value for name, value in (values | fields).items() if value is not None}


def written(directory: Path, *models: dict[str, Any]) -> Path:
    """Returns a file of models."""
    path = directory / "catalog.json"
    path.write_text(json.dumps({"models": models}))
    return path
