"""Findings about the settings in force."""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from metamorphd.checks.mounts import outside
from metamorphd.checks.names import shown
from metamorphd.clock import day_of
from metamorphd.errors import StartupRefused
from metamorphd.keys.key_file import read_keys
from metamorphd.models.counted import counted
from metamorphd.models.finding import Finding, FindingStatus, failed, ok, warning
from metamorphd.settings.server import Settings

ENVIRONMENTS = ("development", "test", "production")
ROTATION_DAYS = 90
# The guide's, and what people write to fill in later.
PLACEHOLDER = re.compile(r"your[-_ ]|change[-_ ]?me|placeholder|example|\.\.\.|…|xxx|<.*>|32-char", re.IGNORECASE)
# `openssl rand -hex 32` has at least nine but for once in a thousand million times.
FEWEST_CHARACTERS = 8
LONGEST_SECONDS = 86_400
LEAST_DAYS = 1 / 24
MOST_HOURS = 48
OTLP_GRPC_PORT = 4317
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_settings(settings: Settings, *, today: date) -> list[Finding]:
    """Returns a finding for each thing that is looked at in settings that can be read."""
    of_access = (node_env, dev_mode, signing_secret, model_key, encryption, audit_key, limits)
    of_operation = (durations, ports, storage, volume, telemetry)
    found = [finding for check in of_access + of_operation for finding in check(settings)]
    return [*found, *secret_age(settings, today=today), *key_age(settings, today=today)]


def of_faults(faults: Iterable[str]) -> Iterator[Finding]:
    """Yields a finding for each reason why a server would not start, as the settings state it."""
    for fault in faults:
        what, _, remedy = fault.partition("; ")
        yield failed(
            "settings", f"the server would not start: {what}", remedy or "docs/settings.md has what is accepted"
        )


def bad(findings: Iterable[Finding]) -> list[Finding]:
    """Returns those that an operator should know of."""
    return [finding for finding in findings if finding.status is not FindingStatus.OK]


def node_env(settings: Settings) -> Iterator[Finding]:
    """Checks that the environment is one that is known: any other one has none of production's protection."""
    if settings.production or settings.node_env in ENVIRONMENTS:
        yield ok("node-env", f"NODE_ENV is {shown(settings.node_env.strip())}")
    else:
        yield failed(
            "node-env",
            f"NODE_ENV is {shown(settings.node_env)!r}, with which nothing is required that production requires",
            f"set it to {', '.join(ENVIRONMENTS[:-1])} or {ENVIRONMENTS[-1]}",
        )


def dev_mode(settings: Settings) -> Iterator[Finding]:
    """Checks that callers need a token."""
    if settings.emblem_dev_mode:
        yield warning("dev-mode", "EMBLEM_DEV_MODE is on: nobody needs a token", "set it to false before you deploy")
    else:
        yield ok("dev-mode", "EMBLEM_DEV_MODE is off")


def signing_secret(settings: Settings) -> Iterator[Finding]:
    """Checks that nobody can guess the secrets, and that there is one."""
    guessable = [
        secret for secret in settings.jwt_secrets if PLACEHOLDER.search(secret) or len(set(secret)) < FEWEST_CHARACTERS
    ]
    make = "make one with `openssl rand -hex 32`"
    if guessable:
        which = "" if guessable[0] == settings.jwt_secrets[0] and settings.emblem_jwt_secret else "_PREVIOUS"
        yield failed(
            "signing-secret", f"EMBLEM_JWT_SECRET{which} can be guessed: it is an example's or too simple", make
        )
    elif len(set(settings.jwt_secrets)) < len(settings.jwt_secrets):
        yield warning(
            "signing-secret",
            "EMBLEM_JWT_SECRET_PREVIOUS has the current secret too, so nothing was rotated",
            f"{make} for EMBLEM_JWT_SECRET",
        )
    elif settings.has_other_identities and not settings.jwt_secrets and not settings.emblem_jwks_url:
        yield warning("signing-secret", "EMBLEM_JWT_SECRET is not set: the Emblem API identifies every caller", make)
    elif settings.emblem_jwt_secret is not None:
        yield ok("signing-secret", "EMBLEM_JWT_SECRET is set and long enough")
    spaced = settings.emblem_jwt_secret
    if spaced is not None and spaced.get_secret_value() != spaced.get_secret_value().strip():
        yield failed(
            "signing-secret",
            "EMBLEM_JWT_SECRET begins or ends with white space, which is part of it, so other issuers sign otherwise",
            "remove the white space",
        )


def secret_age(settings: Settings, *, today: date) -> Iterator[Finding]:
    """Checks that the signing secret is rotated every 90 days, as far as its date is stated."""
    if settings.emblem_jwt_secret is None:
        return
    if settings.emblem_jwt_secret_date is None:
        yield from _unknown_age("secret-age", "EMBLEM_JWT_SECRET", settings)
    else:
        yield _age(
            "secret-age",
            "EMBLEM_JWT_SECRET",
            settings.emblem_jwt_secret_date,
            today=today,
            remedy="rotate it (docs/authentication.md, Rotating the secret) and set EMBLEM_JWT_SECRET_DATE",
        )


def key_age(settings: Settings, *, today: date) -> Iterator[Finding]:
    """Checks the keys that wrap data keys: that one can be used, and is rotated every 90 days."""
    file, name = settings.token_encryption_key_file, "TOKEN_ENCRYPTION_KEY"
    since = settings.token_encryption_key_date
    if file is not None:
        name = "the key in TOKEN_ENCRYPTION_KEY_FILE"
        try:
            made = read_keys(file)[0].key_time
        except StartupRefused as exc:
            what, _, remedy = str(exc).partition("; ")
            yield failed("key-age", what, remedy)
            return
        since = None if made is None else day_of(made)
        if settings.production and _same_volume(file, settings.database_path):
            yield warning(
                "key-file",
                "TOKEN_ENCRYPTION_KEY_FILE is on the volume of the database, so whoever has that can read the secrets",
                "keep it on another volume, or set TOKEN_ENCRYPTION_KEY instead",
            )
    elif settings.token_encryption_key is None:
        return
    elif any(PLACEHOLDER.search(text) or len(set(text)) < FEWEST_CHARACTERS for text in settings.key_texts[:1]):
        yield failed(
            "key-age",
            "TOKEN_ENCRYPTION_KEY can be guessed: it is an example's or too simple",
            "make one with `openssl rand -hex 32`, and move this one to TOKEN_ENCRYPTION_KEY_PREVIOUS",
        )
    if since is None:
        yield from _unknown_age("key-age", "TOKEN_ENCRYPTION_KEY", settings)
    else:
        yield _age("key-age", name, since, today=today, remedy="rotate it (docs/secrets.md, Rotating the key)")


def _same_volume(file: Path, other: Path) -> bool:
    try:
        return file.stat().st_dev == other.parent.stat().st_dev
    except OSError:
        return False


def _unknown_age(check: str, name: str, settings: Settings) -> Iterator[Finding]:
    if settings.production:
        yield warning(check, f"the age of {name} is not known", f"set {name}_DATE to the day since which it is in use")


def _age(check: str, name: str, since: date, *, today: date, remedy: str) -> Finding:
    days = (today - since).days
    # Elsewhere it may be tomorrow.
    if days < -1:
        return failed(check, f"{name} is dated {since}, which is in the future", "set the day since it is in use")
    if days > ROTATION_DAYS:
        return warning(check, f"{name} is {counted(days, 'day')} old, more than {ROTATION_DAYS}", remedy)
    return ok(check, f"{name} is {counted(max(days, 0), 'day')} old, of {ROTATION_DAYS}")


def model_key(settings: Settings) -> Iterator[Finding]:
    """Checks that the key of the model provider can be one."""
    key = settings.anthropic_api_key
    if key is None:
        return
    if PLACEHOLDER.search(key.get_secret_value()):
        yield failed("model-key", "ANTHROPIC_API_KEY is an example's", "set it to a key of console.anthropic.com")
    elif (
        settings.production and settings.anthropic_base_url is None and not key.get_secret_value().startswith("sk-ant-")
    ):
        yield warning("model-key", "ANTHROPIC_API_KEY does not begin with sk-ant-", "set it to a Claude API key")
    else:
        yield ok("model-key", "ANTHROPIC_API_KEY is set")


def encryption(settings: Settings) -> Iterator[Finding]:
    """Checks that what is sent over a network is encrypted."""
    if settings.grpc_tls_cert is None and not settings.loopback:
        yield warning(
            "tls",
            "gRPC is served without TLS",
            "let only a private, encrypted network reach this port, or set GRPC_TLS_CERT and GRPC_TLS_KEY",
        )
    base = settings.anthropic_base_url
    if base is not None and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])([:/]|$)", base):
        yield warning(
            "tls", "ANTHROPIC_BASE_URL is not https://, so the key and every prompt can be read", "use https://"
        )


def audit_key(settings: Settings) -> Iterator[Finding]:
    """Checks that production authenticates the logs of vaults, with a key that cannot be guessed."""
    make = "make one with `openssl rand -hex 32`"
    if any(PLACEHOLDER.search(text) or len(set(text)) < FEWEST_CHARACTERS for text in settings.audit_key_texts[:1]):
        yield failed("audit-key", "AUDIT_KEY can be guessed: it is an example's or too simple", make)
    elif settings.audit_key is not None:
        yield ok("audit-key", "AUDIT_KEY is set and long enough")
    elif settings.production:
        yield warning(
            "audit-key",
            "AUDIT_KEY is not set: an audit cannot find what was changed in the database",
            make,
        )
    if settings.audit_key is not None and settings.log_level in ("warning", "error"):
        yield warning(
            "audit-heads",
            f"LOG_LEVEL={settings.log_level} leaves out the heads of logs, by which an audit finds what was cut off",
            "set LOG_LEVEL=info, or keep what `metamorph audit verify --json` prints",
        )


def limits(settings: Settings) -> Iterator[Finding]:
    """Checks that production has limits."""
    names = {
        "RATE_LIMIT_REQUESTS": settings.rate_limit_requests,
        "AUTH_FAILURE_REQUESTS": settings.auth_failure_requests,
    }
    for name, value in names.items():
        if settings.production and value == 0:
            yield warning(
                "limits", f"{name} is 0, which is no limit", "set it to a number, or remove it for the default"
            )


def durations(settings: Settings) -> Iterator[Finding]:
    """Checks that seconds are not milliseconds, which the deployment guide's own code has."""
    for name, value in (
        ("RATE_LIMIT_WINDOW_SECONDS", settings.rate_limit_window_seconds),
        ("TURN_TIMEOUT_SECONDS", settings.turn_timeout_seconds),
        ("SHUTDOWN_GRACE_SECONDS", settings.shutdown_grace_seconds),
        ("ANTHROPIC_STALL_SECONDS", settings.anthropic_stall_seconds),
    ):
        if value > LONGEST_SECONDS:
            yield warning("durations", f"{name} is more than a day", "set it in seconds, not in milliseconds")


def ports(settings: Settings) -> Iterator[Finding]:
    """Checks that the two servers do not want the same port."""
    if settings.port == settings.grpc_port != 0:
        yield failed("ports", f"PORT and GRPC_PORT are both {settings.port}", "set one of them to another port")


def storage(settings: Settings) -> Iterator[Finding]:
    """Checks that acknowledged data is kept: where, how safely, and in how many copies."""
    # Unlike the method, it is not raised by a name that is too long.
    if os.path.isdir(settings.database_path):
        yield failed("storage", "DATABASE_PATH is a directory", "add the file's name, such as metamorph.db")
    if not settings.production:
        return
    if not settings.database_path.is_absolute():
        yield warning(
            "storage",
            "DATABASE_PATH is relative, so the next deployment may look elsewhere",
            "set it to a file on the volume, such as /data/metamorph.db",
        )
    if settings.sqlite_synchronous != "FULL":
        yield warning(
            "storage", "SQLITE_SYNCHRONOUS is NORMAL: a power cut may lose acknowledged writes", "set it to FULL"
        )
    if settings.backup_interval_hours == 0:
        yield warning(
            "backups",
            "BACKUP_INTERVAL_HOURS is 0: no backups are made or verified",
            "set it to 24, or make them otherwise",
        )
    elif settings.backup_interval_hours > MOST_HOURS:
        yield warning(
            "backups", f"backups are made less often than every {MOST_HOURS} hours", "set BACKUP_INTERVAL_HOURS"
        )
    if settings.backup_retention_days < LEAST_DAYS:
        yield warning("backups", "BACKUP_RETENTION_DAYS is less than an hour", "set it in days")


def volume(settings: Settings) -> Iterator[Finding]:
    """Checks that files are on the volume that Railway mounts, as far as it says where."""
    if settings.railway_volume:
        paths = {"DATABASE_PATH": settings.database_path, "BACKUP_DIR": settings.backup_dir}
        yield from outside(settings.railway_volume, {name: path for name, path in paths.items() if path is not None})


def telemetry(settings: Settings) -> Iterator[Finding]:
    """Checks the address of the OTLP receiver, as far as that can be seen without asking it."""
    endpoint, headers = settings.otel_exporter_otlp_endpoint, settings.otel_exporter_otlp_headers
    if endpoint is None:
        if headers is not None:
            yield warning(
                "telemetry",
                "OTEL_EXPORTER_OTLP_HEADERS has no effect without OTEL_EXPORTER_OTLP_ENDPOINT",
                "set both or neither",
            )
        return
    url = urlsplit(endpoint)
    if url.port == OTLP_GRPC_PORT:
        yield warning(
            "telemetry",
            f"OTEL_EXPORTER_OTLP_ENDPOINT has port {OTLP_GRPC_PORT}, where receivers take gRPC; the server sends HTTP",
            "set it to the receiver's port for HTTP, usually 4318",
        )
    elif url.path.rstrip("/").endswith(("/v1/traces", "/v1/metrics")):
        yield warning(
            "telemetry",
            "OTEL_EXPORTER_OTLP_ENDPOINT ends with the path of one signal, to which the server adds another",
            "remove /v1/traces or /v1/metrics from its end",
        )
    elif headers is not None and url.scheme == "http" and url.hostname not in LOOPBACK:
        yield warning(
            "telemetry",
            "OTEL_EXPORTER_OTLP_HEADERS are sent without TLS",
            "use https://, or a receiver beside the server",
        )
    else:
        yield ok("telemetry", "OTEL_EXPORTER_OTLP_ENDPOINT can be that of a receiver")
