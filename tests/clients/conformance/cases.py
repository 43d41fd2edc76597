"""The cases of the suite, which are written once for every language."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """One case: a sentence about a client, and the steps that show that it is true.

    `server` names one of World's servers. `scripts` are the streams of the server `fake`.
    """

    subject: str
    name: str
    steps: tuple[Mapping[str, Any], ...]
    server: str = "main"
    scripts: tuple[Any, ...] = ()

    @property
    def sentence(self) -> str:
        return self.name.replace("_", " ")


def cases() -> list[Case]:
    """Returns every case, by subject in the order of their files' names."""
    return [case for path in sorted(DIRECTORY.glob("*.json")) for case in _of(path)]


def _of(path: Path) -> list[Case]:
    subject = path.stem.partition("-")[2].replace("-", " ")
    return [
        Case(subject, case["name"], tuple(case["steps"]), case.get("server", "main"), tuple(case.get("scripts", ())))
        for case in json.loads(path.read_text())
    ]
