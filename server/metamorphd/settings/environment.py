"""The environment of the process. No other module reads it, except pydantic-settings on behalf of this package."""

import os
from collections.abc import Mapping
from pathlib import Path


def variables() -> Mapping[str, str]:
    """Returns the variables by their names in capitals, by which settings are read."""
    return {name.upper(): value for name, value in os.environ.items()}


def silence_core() -> None:
    """Keeps gRPC's core from writing lines of its own on standard error, unless the environment asks for them.

    It must not be imported yet.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def is_contained() -> bool:
    """Returns whether this is the environment of a container on Railway or Kubernetes."""
    return railway_name() is not None or "KUBERNETES_SERVICE_HOST" in os.environ


def railway_name() -> str | None:
    """Returns the first name that Railway sets, in the order of the alphabet, or None elsewhere."""
    return next((name for name in sorted(os.environ) if name.startswith("RAILWAY_")), None)


def railway_volume() -> str:
    """Returns where Railway mounts the service's volume, or nothing if it does not say so."""
    return os.environ.get("RAILWAY_VOLUME_MOUNT_PATH", "")


def proxied_port() -> str | None:
    """Returns the port that Railway's TCP proxy exposes, or None."""
    return os.environ.get("RAILWAY_TCP_APPLICATION_PORT")


def state_directory() -> Path | None:
    """Returns where programs of this user keep their state (XDG Base Directory Specification), or None if nowhere."""
    return _xdg_directory("XDG_STATE_HOME", ".local/state")


def configuration_directory() -> Path | None:
    """Returns where programs of this user keep their configuration, like `state_directory`."""
    return _xdg_directory("XDG_CONFIG_HOME", ".config")


def _xdg_directory(variable: str, default: str) -> Path | None:
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named
    try:
        return Path.home() / default
    except RuntimeError:
        return None
