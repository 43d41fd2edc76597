"""The forms that values of settings have: what is accepted, and how a value is written."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

HIGHEST_PORT = 65_535
# Of seconds, hours and days: long enough, and the microseconds of it are still an integer of 64 bits.
LONGEST = 1_000_000


def _exact_boolean(value: object) -> object:
    """Accepts only `true` and `false`, so that other spellings neither turn a risk on nor seem to turn it off."""
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be exactly true or false")
    return value


def _log_level(value: str) -> str:
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return value.lower()


def _rate_limit_storage(value: object) -> object:
    """Returns the Redis URL, or None for `memory`. The URL is a secret, because it often contains a password."""
    if value == "memory":
        return None
    if isinstance(value, str) and not value.startswith(("redis://", "rediss://")):
        raise ValueError("must be memory, redis://… or rediss://…")
    if isinstance(value, str) and not _is_url(value):
        raise ValueError("has a host or a port that is none")
    return value


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _vault_patterns(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9._:*-]+( *, *[A-Za-z0-9._:*-]+)*", value):
        raise ValueError("must be vault IDs separated by commas, in which * stands for any characters")
    return value


def _host_and_port(value: str | None) -> str | None:
    if value is not None:
        host, _, port = value.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*|\[[0-9A-Fa-f:.]+\]", host) or not re.fullmatch(
            r"\d{1,5}", port, re.ASCII
        ):
            raise ValueError("must be host:port, for example 127.0.0.1:9464 or [::]:9464")
        if int(port) > HIGHEST_PORT:
            raise ValueError(f"has a port above {HIGHEST_PORT}")
    return value


def _authority_url(value: str | None) -> str | None:
    if value is not None and (not value.startswith(("http://", "https://")) or not _is_url(value)):
        raise ValueError("must be http://host/path or https://host/path")
    if value is not None and "@" in urlsplit(value).netloc:
        raise ValueError("must not have a password")
    return value


def _dsn(value: SecretStr | None) -> SecretStr | None:
    text = "" if value is None else value.get_secret_value()
    host = r"https://[0-9A-Za-z]+@[0-9A-Za-z.-]+|http://[0-9A-Za-z]+@(127\.0\.0\.1|localhost)"
    if text and not re.fullmatch(rf"({host})(:[0-9]{{1,5}})?(/[0-9A-Za-z._/-]+)?/[0-9]+", text):
        raise ValueError("must be https://key@host/project, as Sentry shows it")
    return value


def _header_token(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", value.get_secret_value()):
        raise ValueError("may have letters, digits and ._~+/=- only, as every Bearer token (RFC 6750)")
    return value


def as_text(value: object) -> str:
    """Returns a setting's value in the form of its environment variable, or `set` for a secret."""
    if isinstance(value, SecretStr):
        return "set"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


Port = Annotated[int, Field(ge=0, le=65535)]
# Compared and multiplied as an integer, which infinity has none for.
Seconds = Annotated[float, Field(le=LONGEST)]
Days = Annotated[float, Field(le=LONGEST)]
Hours = Annotated[float, Field(le=LONGEST)]
ExactBoolean = Annotated[bool, BeforeValidator(_exact_boolean)]
VaultPatterns = Annotated[str | None, AfterValidator(_vault_patterns)]
HostAndPort = Annotated[str | None, AfterValidator(_host_and_port)]
HeaderToken = Annotated[SecretStr | None, AfterValidator(_header_token)]
RateLimitStorage = Annotated[SecretStr | None, BeforeValidator(_rate_limit_storage)]
LogLevel = Annotated[str, AfterValidator(_log_level)]
AuthorityUrl = Annotated[str | None, AfterValidator(_authority_url)]
Dsn = Annotated[SecretStr | None, AfterValidator(_dsn)]
