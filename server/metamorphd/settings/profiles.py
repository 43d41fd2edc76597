"""Profiles: settings of a client that are kept under a name, each in a file that only its user can read."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamorphd.durable import replacing
from metamorphd.errors import StartupRefused
from metamorphd.settings.environment import configuration_directory

# Of the one that counts if none is named.
DEFAULT = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OTHERS = 0o077


def profile_names() -> list[str]:
    """Returns the names of the profiles that are kept, in order."""
    directory = _directory()
    return sorted(path.stem for path in directory.glob("*.json")) if directory is not None else []


def read_profile(name: str) -> dict[str, Any] | None:
    """Returns the settings of a profile, or None if there is none. Raises StartupRefused if it cannot be trusted."""
    path = _path(name)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & OTHERS:
                raise StartupRefused(f"others can read {path}, which has a token; chmod 600 it, or log in anew")
            kept = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise StartupRefused(f"{path} is no profile that can be read; log in anew") from exc
    if not isinstance(kept, dict):
        raise StartupRefused(f"{path} is no profile; log in anew")
    return kept


def write_profile(name: str, kept: Mapping[str, Any]) -> Path:
    """Keeps settings under a name, in the place of those before. Returns the file. Raises StartupRefused, OSError."""
    path = _path(name)
    if path is None:
        raise StartupRefused("there is no directory for profiles; set HOME or XDG_CONFIG_HOME")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as file:
        json.dump(kept, file)
    return path


def delete_profile(name: str) -> bool:
    """Deletes a profile. Returns whether there was one. Raises StartupRefused, OSError."""
    path = _path(name)
    if path is None or not path.exists():
        return False
    path.unlink()
    return True


def _path(name: str) -> Path | None:
    if not NAME.fullmatch(name):
        raise StartupRefused(f"{name!r} is no name of a profile; one has letters, digits, '.', '_' and '-', at most 64")
    directory = _directory()
    return None if directory is None else directory / f"{name}.json"


def _directory() -> Path | None:
    configuration = configuration_directory()
    return None if configuration is None else configuration / "metamorph" / "profiles"
