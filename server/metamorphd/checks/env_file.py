"""A `.env` file as it is written: its names, and the lines that do not say what they seem to."""

import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from metamorphd.checks.names import shown
from metamorphd.models.finding import Finding, failed, ok, warning

# All settings with their comments are a quarter of it.
LARGEST_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The names in a `.env` file with their values, and what was found of its lines. Not all can be read."""

    values: dict[str, str]
    findings: tuple[Finding, ...]
    readable: bool = True


def read_env_file(path: Path) -> EnvFile:
    """Reads a file as the server does. A finding names a line by its number, because it may contain a secret."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        mode = path.stat().st_mode
        text = data.decode()
        if "\0" in text:
            return _unreadable(path, "is no text", "name a file of settings")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        return _unreadable(path, f"cannot be read ({reason})", "make it a readable text file")
    if len(data) > LARGEST_BYTES:
        return _unreadable(path, f"has more than {LARGEST_BYTES:,} bytes", "name a file of settings")
    bindings = list(parse_stream(StringIO(text)))
    findings = []
    for binding in bindings:
        line = binding.original.line
        if binding.error:
            findings.append(
                failed("env-file", f"line {line} of {path} is not NAME=value, so it has no effect", "correct the line")
            )
        elif binding.key is not None and binding.value is None:
            findings.append(
                warning(
                    "env-file", f"line {line} of {path} has a name without =, so it sets nothing", "add = and a value"
                )
            )
    named = [binding.key for binding in bindings if binding.key is not None]
    for name, count in Counter(name.upper() for name in named).items():
        if count > 1:
            findings.append(
                warning(
                    "env-file",
                    f"{shown(name)} is set {count} times in {path}, and the last one counts",
                    "keep one of them",
                )
            )
    # The last one, as the server reads it.
    values = {binding.key.upper(): binding.value for binding in bindings if binding.key and binding.value is not None}
    findings += _permissions(path, mode, values)
    return EnvFile(values, tuple(findings) or (ok("env-file", f"{path} has {len(values)} names"),))


def overridden(values: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yields a finding for each name in a file that the environment sets to something else."""
    for name, value in sorted(values.items()):
        if name in environment and environment[name] != value:
            yield warning(
                "env-file",
                f"{shown(name)} is also in the environment, which wins: the file's value was not checked",
                f"check again with `env -u {shown(name)} metamorph check …`",
            )


def _permissions(path: Path, mode: int, values: dict[str, str]) -> Iterator[Finding]:
    if mode & (stat.S_IRGRP | stat.S_IROTH) and any(_secret(name) and value for name, value in values.items()):
        yield warning("env-file", f"{path} has secrets, and other users can read it", f"run `chmod 600 {path}`")


def _secret(name: str) -> bool:
    return any(part in name for part in ("SECRET", "KEY", "TOKEN", "HEADERS"))


def _unreadable(path: Path, what: str, remedy: str) -> EnvFile:
    return EnvFile({}, (failed("env-file", f"{path} {what}", remedy),), readable=False)
