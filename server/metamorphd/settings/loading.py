"""Reads the settings, and refuses what cannot be meant."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from metamorphd.errors import StartupRefused
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.faults import MISSING_SIGNING_KEY, faults_of, short_secret
from metamorphd.settings.profiles import DEFAULT, read_profile
from metamorphd.settings.server import Settings

Group = TypeVar("Group", bound=BaseSettings)

UNREADABLE_FILE = "the .env file cannot be read; make it a readable UTF-8 file, or remove it"


def load(**overrides: Any) -> Settings:
    """Reads the settings. `overrides` that are not None replace the environment's. Raises StartupRefused."""
    settings = _read(**{name: value for name, value in overrides.items() if value is not None})
    _refuse(faults_of(settings))
    return settings


def load_dev(**overrides: Any) -> Settings:
    """Reads the settings like `load`, for `metamorph dev`: dev mode on loopback, no rate limit unless one is set."""
    dev: dict[str, Any] = {"emblem_dev_mode": True, "listen_address": "127.0.0.1", "emblem_api_url": ""}
    if "rate_limit_requests" not in _read().model_fields_set:
        dev["rate_limit_requests"] = 0
    return load(**(dev | overrides))


def load_client(*, profiles: bool = True, **overrides: Any) -> ClientSettings:
    """Reads the settings of a client: `overrides` that are not empty, the environment, then the profile if `profiles`.

    Raises StartupRefused.
    """
    given = {name: value for name, value in overrides.items() if value}
    settings = _valid(ClientSettings, **given)
    if profiles:
        settings = _valid(ClientSettings, **_of_profile(settings), **given)
    if (settings.cert is None) != (settings.key is None):
        raise StartupRefused(
            "METAMORPH_CERT and METAMORPH_KEY (--cert, --key) must be set together; set both or neither"
        )
    return settings


def _of_profile(settings: ClientSettings) -> dict[str, Any]:
    """Returns what a profile adds to settings: nothing, if they name another server than the one it is for.

    Its token is for that server.
    """
    kept = read_profile(settings.profile or DEFAULT)
    if kept is None:
        if name := settings.profile:
            raise StartupRefused(f"there is no profile {name}; `metamorph login {name}` makes one")
        return {}
    given = settings.model_fields_set
    if "target" in given and settings.target.removeprefix("grpcs://") != kept.get("target"):
        if settings.profile:
            raise StartupRefused(
                f"the profile {settings.profile} is for {kept.get('target')}, not for {settings.target}; leave out one"
            )
        return {}
    return {name: value for name, value in kept.items() if name not in given}


def load_paths() -> Settings:
    """Reads the settings for work on the files of a server that does not run. Raises StartupRefused."""
    return _read()


def load_signing() -> Settings:
    """Reads the settings for minting tokens. Raises StartupRefused if the secret is missing or too short."""
    settings = _read()
    _refuse(short_secret(settings))
    if settings.emblem_jwt_secret is None:
        raise StartupRefused(MISSING_SIGNING_KEY)
    return settings


def load_faulty(env_file: Path) -> tuple[Settings | None, list[str]]:
    """Reads the settings with another file in the place of `.env`, and returns all that keeps a server from starting.

    There are no settings if values are invalid. Each fault is as in the message of StartupRefused.
    """
    given: dict[str, Any] = {"_env_file": env_file}
    try:
        settings = Settings(**given)
    except ValidationError as exc:
        return None, list(_invalid(exc))
    except (OSError, UnicodeDecodeError):
        return None, [UNREADABLE_FILE]
    return settings, list(faults_of(settings))


def variable_names() -> frozenset[str]:
    """Returns the names of all variables that this program reads."""
    groups: tuple[type[BaseSettings], ...] = (Settings, ClientSettings)
    return frozenset(
        f"{group.model_config.get('env_prefix', '')}{name}".upper() for group in groups for name in group.model_fields
    )


def _read(**overrides: Any) -> Settings:
    return _valid(Settings, **overrides)


def _valid(group: type[Group], **overrides: Any) -> Group:
    try:
        return group(**overrides)
    except ValidationError as exc:
        prefix = group.model_config.get("env_prefix", "")
        raise StartupRefused(f"invalid settings: {'; '.join(_invalid(exc, prefix=prefix))}") from None
    except (OSError, UnicodeDecodeError):
        raise StartupRefused(UNREADABLE_FILE) from None


def _invalid(exc: ValidationError, *, prefix: str = "") -> Iterator[str]:
    """Yields what is wrong with each value. The value is left out, because it may be a secret."""
    for error in exc.errors():
        yield f"{prefix}{str(error['loc'][0]).upper()}: {error['msg']}"


def _refuse(faults: Iterable[str]) -> None:
    for fault in faults:
        raise StartupRefused(fault)
