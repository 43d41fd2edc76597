"""Reads the stages and instructions of a Dockerfile."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """An instruction, for example `COPY` with `server server`. Continuation lines are joined."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Returns the words after the flags."""
        return [word for word in shlex.split(self.text) if not word.startswith("--")]

    def exec_form(self) -> list[str]:
        """Returns the JSON array of an exec form, after any flags. Raises ValueError for a shell form."""
        command: list[str] = json.loads(self.text[self.text.index("[") :])
        return command


@dataclass
class Stage:
    """A build stage: the instructions after one FROM."""

    image: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Returns the instructions with this name."""
        return [instruction for instruction in self.instructions if instruction.name == name]

    def environment(self) -> dict[str, str]:
        """Returns every variable that ENV sets."""
        return dict(word.split("=", 1) for instruction in self.all("ENV") for word in instruction.words())

    def labels(self) -> dict[str, str]:
        """Returns every label."""
        return dict(word.split("=", 1) for instruction in self.all("LABEL") for word in instruction.words())


def stages(path: Path) -> list[Stage]:
    """Returns the stages of a Dockerfile, in order."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found: list[Stage] = []
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, text = line.split(maxsplit=1)
        if name == "FROM":
            image, _, alias = text.partition(" AS ")
            found.append(Stage(image, alias))
        else:
            found[-1].instructions.append(Instruction(name, text))
    return found
