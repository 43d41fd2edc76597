"""The settings, each read from the environment variable of the same name. No other module reads the environment."""

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from metamorphd.errors import StartupRefused
from metamorphd.telemetry.receiver import otlp_endpoint, otlp_headers

Group = TypeVar("Group", bound=BaseSettings)

SHORTEST_SECRET = 32
HIGHEST_PORT = 65_535
PRODUCTION = "production"
UNREADABLE_FILE = "the .env file cannot be read; make it a readable UTF-8 file, or remove it"
MISSING_SIGNING_KEY = "EMBLEM_JWT_SECRET is not set; make one with `openssl rand -hex 32` and set it"


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


Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The server's settings. The environment variable of a field is its name in capitals."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Treats an empty variable as not set, except EMBLEM_API_URL, for which empty means none, not the default."""
        given = {name: value for name, value in values.items() if value != ""}
        return given | ({"emblem_api_url": None} if values.get("emblem_api_url") == "" else {})

    anthropic_api_key: SecretStr | None = Field(
        default=None,
        description="Claude API key. Required in production. Elsewhere, an offline model answers if it is not set.",
    )
    emblem_jwt_secret: SecretStr | None = Field(
        default=None,
        description=(
            "Secret that signs callers' tokens (HS256), at least 32 characters. Required in production, and elsewhere "
            "unless dev mode is on or EMBLEM_JWKS_URL or EMBLEM_API_URL is set."
        ),
    )
    emblem_jwt_secret_previous: SecretStr | None = Field(
        default=None,
        description="Previous secrets, separated by commas. Tokens signed with them stay valid during a rotation.",
    )
    emblem_jwt_secret_date: date | None = Field(
        default=None,
        description=(
            "Day since which EMBLEM_JWT_SECRET is in use, such as 2026-11-01. `metamorph check` then says when to "
            "rotate it."
        ),
    )
    emblem_jwt_issuer: str | None = Field(default=None, description="If set, tokens must have this issuer (`iss`).")
    emblem_jwt_audience: str | None = Field(default=None, description="If set, tokens must have this audience (`aud`).")
    emblem_jwks_url: str | None = Field(
        default=None,
        description=(
            "HTTPS URL of a JSON Web Key Set, for tokens signed with RS256, ES256 or EdDSA. In production it requires "
            "EMBLEM_JWT_ISSUER and EMBLEM_JWT_AUDIENCE."
        ),
    )
    emblem_jwks_vaults: Annotated[str | None, AfterValidator(_vault_patterns)] = Field(
        default=None,
        description=(
            "Vaults that tokens of the key set may name, separated by commas; `*` stands for any characters. Default: "
            "all."
        ),
    )
    emblem_jwks_operators: Annotated[bool, BeforeValidator(_exact_boolean)] = Field(
        default=False,
        description=(
            "`true` lets tokens of the key set name operators. Otherwise only tokens signed with EMBLEM_JWT_SECRET can."
        ),
    )
    emblem_api_url: str | None = Field(
        default="https://api.emblemvault.ai",
        description=(
            "Emblem API, which identifies callers whose tokens this server cannot verify itself. Set to nothing, it "
            "is not used. `metamorph dev` never uses it."
        ),
    )
    database_path: Path = Field(
        default=Path("./data/metamorph.db"), description="SQLite database file. On Railway: /data/metamorph.db."
    )
    node_env: str = Field(
        default="development",
        description="With `production`, the server refuses to start with missing or unsafe settings.",
    )
    emblem_dev_mode: Annotated[bool, BeforeValidator(_exact_boolean)] = Field(
        default=False,
        description="`true` accepts calls without a token, on the vault named in x-vault-id. Loopback only.",
    )
    listen_address: str = Field(
        default="::", description="Address to listen on. `::` is all addresses, including IPv4."
    )
    port: Port = Field(default=3001, description="HTTP port, for /health and /metrics.")
    grpc_port: Port = Field(default=50051, description="gRPC port.")
    metrics_address: Annotated[str | None, AfterValidator(_host_and_port)] = Field(
        default=None, description="host:port for /metrics alone, for example [::]:9464. Default: LISTEN_ADDRESS, PORT."
    )
    metrics_token: Annotated[SecretStr | None, AfterValidator(_header_token)] = Field(
        default=None,
        description=(
            "Bearer token for /metrics, at least 32 characters. An operator's token is accepted too. In production one "
            "of them is required."
        ),
    )
    metrics_public: Annotated[bool, BeforeValidator(_exact_boolean)] = Field(
        default=False, description="`true` serves /metrics without a token in production too."
    )
    grpc_tls_cert: str | None = Field(
        default=None,
        description="TLS certificate chain of the gRPC port: PEM text or a file. A file that changes is read again.",
    )
    grpc_tls_key: SecretStr | None = Field(
        default=None, description="Private key of that certificate: PEM text or a file."
    )
    grpc_tls_client_ca: str | None = Field(
        default=None,
        description="Authorities for mTLS: clients must present a certificate from one of them. PEM text or a file.",
    )
    anthropic_base_url: str | None = Field(
        default=None, description="Base URL of the Messages API, if it is not Anthropic's."
    )
    anthropic_max_retries: int = Field(
        default=2, ge=0, le=10, description="How often to retry a call to the model that fails before its first event."
    )
    anthropic_stall_seconds: float = Field(
        default=60, gt=0, description="Seconds of silence from the model after which the turn fails."
    )
    compaction_trigger_tokens: int = Field(
        default=150_000,
        ge=0,
        description="Input tokens above which earlier messages are summarized for the model. 0 turns this off.",
    )
    default_model: str = Field(
        default="claude-sonnet-5-5",
        description="Model of turns for which neither the request, the session nor the vault names one.",
    )
    model_catalog: Path | None = Field(
        default=None,
        description="JSON file of accepted models and their prices, which replaces the built-in catalog.",
    )
    session_title_model: str = Field(
        default="",
        description="Model that titles untitled sessions after a reply, for example claude-haiku-5-5. Empty: none.",
    )
    max_output_tokens: int = Field(
        default=32_000, ge=1, le=131_072, description="Maximum length of a reply, in tokens."
    )
    max_content_bytes: int = Field(
        default=1_048_576, ge=1, le=1_048_576, description="Maximum text of one message, in bytes."
    )
    max_attachment_bytes: int = Field(
        default=20_971_520, ge=1, le=33_554_432, description="Maximum size of an image or document, in bytes."
    )
    max_bytes_in_flight: int = Field(
        default=67_108_864,
        ge=33_554_432,
        description=(
            "Memory that large requests may take up together until they are stored, in bytes, and the texts of "
            "prompts until they are sent, half as much again."
        ),
    )
    max_vault_bytes_in_flight: int = Field(
        default=41_943_040, ge=33_554_432, description="The same for one vault. At most MAX_BYTES_IN_FLIGHT has effect."
    )
    rate_limit_requests: int = Field(
        default=100,
        ge=0,
        description="Calls per user and window. 0 means no limit, which is the default of `metamorph dev`.",
    )
    rate_limit_window_seconds: float = Field(default=900, gt=0, description="Length of the window, in seconds.")
    rate_limit_storage: Annotated[SecretStr | None, BeforeValidator(_rate_limit_storage)] = Field(
        default=None, description="`memory` (the default), or redis://… to share the limits between replicas."
    )
    auth_failure_requests: int = Field(
        default=100, ge=0, description="Refused tokens per client network and window. 0 means no limit."
    )
    max_running_turns: int = Field(default=100, ge=1, description="Turns of one vault that may run at the same time.")
    turn_timeout_seconds: float = Field(default=600, gt=0, description="Time limit of a turn, in seconds.")
    event_retention_hours: float = Field(
        default=24, ge=24, description="Hours after its end during which a turn can be replayed. Messages stay."
    )
    request_retention_days: float = Field(
        default=7,
        ge=7,
        description="Days during which a request_id is known. Those of sends are, as long as their turn.",
    )
    shutdown_grace_seconds: float = Field(
        default=25, ge=0, description="Seconds that running turns may take to end after SIGTERM."
    )
    backup_dir: Path | None = Field(
        default=None, description="Directory of backups. Default: `backups` beside the database."
    )
    backup_interval_hours: float = Field(
        default=24, ge=0, description="Hours between scheduled backups. 0: none, and no daily verification."
    )
    backup_retention_days: float = Field(
        default=7, gt=0, description="Days that backups are kept. The newest good one of a database is always kept."
    )
    backup_s3_url: str | None = Field(
        default=None,
        description=(
            "Where copies of backups are kept off the machine, s3://bucket/prefix, of this server alone. Default: none."
        ),
    )
    backup_encryption_key: SecretStr | None = Field(
        default=None,
        description=(
            "age recipients (age1…), for which copies are encrypted, or identities (AGE-SECRET-KEY-1…), with which "
            "they are also decrypted; separated by commas. Default: copies are not encrypted."
        ),
    )
    backup_compression: Literal["none", "zstd"] = Field(
        default="none", description="How copies are compressed: none or zstd. Backups on the volume are not."
    )
    aws_access_key_id: str | None = Field(default=None, description="Access key of that bucket.")
    aws_secret_access_key: SecretStr | None = Field(default=None, description="Its secret.")
    aws_region: str = Field(default="us-east-1", description="Region of that bucket.")
    aws_endpoint_url: str | None = Field(
        default=None,
        description="URL of a storage service with S3's protocol, https://…, if it is not AWS's own.",
    )
    replica_url: str | None = Field(
        default=None,
        description=(
            "Litestream's replica of the database, s3://bucket/prefix or file:///directory: `deploy/replicate` writes "
            "it, and a read-only server follows it. Default: none."
        ),
    )
    read_only: Annotated[bool, BeforeValidator(_exact_boolean)] = Field(
        default=False,
        description="`true` serves copies of REPLICA_URL, and refuses to write. Requires PRIMARY_ADDRESS too.",
    )
    primary_address: Annotated[str | None, AfterValidator(_host_and_port)] = Field(
        default=None, description="host:port of the server that writes, which a read-only one names when it refuses."
    )
    replica_interval_seconds: float = Field(
        default=30, ge=1, description="Seconds from one copy of the replica to the next; more if it takes long to make."
    )
    sqlite_synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL", description="NORMAL is faster, but a power cut may lose acknowledged writes."
    )
    vault_storage_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes that a vault may store, unless the operator sets another limit. 0: no limit.",
    )
    storage_floor_bytes: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Free space below which calls that store more are refused. 0: none, and no ballast. Default: 256 MiB, or a "
            "sixteenth of the volume if that is less."
        ),
    )
    log_level: Annotated[str, AfterValidator(_log_level)] = Field(
        default="info", description="debug, info, warning or error."
    )
    sentry_dsn: Annotated[SecretStr | None, AfterValidator(_dsn)] = Field(
        default=None, description="Where errors are reported, https://key@host/project. Default: nowhere."
    )
    sentry_environment: str | None = Field(
        default=None, description="Environment that reports of errors name. Default: NODE_ENV."
    )
    otel_exporter_otlp_endpoint: Annotated[str | None, AfterValidator(otlp_endpoint)] = Field(
        default=None,
        description=(
            "URL of an OTLP receiver (OpenTelemetry, HTTP with protobuf), for example http://collector:4318. Default: "
            "nothing is traced."
        ),
    )
    otel_exporter_otlp_headers: Annotated[SecretStr | None, AfterValidator(otlp_headers)] = Field(
        default=None, description="Headers for it, name=value, separated by commas, with values as in a URL (%20)."
    )
    otel_service_name: str = Field(default="metamorph", description="Name of this service in traces and metrics.")
    otel_traces_sampler_arg: float = Field(
        default=0.01, ge=0, le=1, description="Share of calls that are traced, unless their callers have decided."
    )
    otel_metrics_exporter: Literal["otlp", "none"] = Field(
        default="otlp", description="none if the OTLP receiver takes no metrics."
    )

    @property
    def jwt_secrets(self) -> list[str]:
        """Returns the accepted signing secrets, the current one first."""
        current = [] if self.emblem_jwt_secret is None else [self.emblem_jwt_secret.get_secret_value()]
        previous = self.emblem_jwt_secret_previous
        older = [] if previous is None else previous.get_secret_value().split(",")
        return current + [secret.strip() for secret in older if secret.strip()]

    @property
    def jwks_vaults(self) -> re.Pattern[str] | None:
        """Returns a pattern that matches the whole of each vault ID that the key set may name, or None for all."""
        if self.emblem_jwks_vaults is None:
            return None
        # `translate` knows more than `*`, which the setting does not accept. Its patterns do not backtrack, however
        # many stars they have: whoever signs tokens chooses the vault IDs.
        return re.compile("|".join(map(fnmatch.translate, re.split(" *, *", self.emblem_jwks_vaults))))

    @property
    def backup_path(self) -> Path:
        """Returns the directory of backups."""
        return self.backup_dir or self.database_path.parent / "backups"

    def s3_credentials(self) -> dict[str, Any]:
        """Returns the credentials of the bucket. Raises StartupRefused if they are missing or unsafe."""
        endpoint, secret = self.aws_endpoint_url, self.aws_secret_access_key
        if self.aws_access_key_id is None or secret is None:
            raise StartupRefused("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; a bucket needs both")
        if endpoint is not None and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", endpoint):
            raise StartupRefused("AWS_ENDPOINT_URL must begin with https://")
        return {
            "access_key_id": self.aws_access_key_id,
            "secret_access_key": secret.get_secret_value(),
            "region": self.aws_region,
            "endpoint": endpoint,
        }

    @property
    def replica_environment(self) -> dict[str, str]:
        """Returns the environment in which Litestream reads the replica."""
        secret = self.aws_secret_access_key
        given = {
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": None if secret is None else secret.get_secret_value(),
        }
        return {**environment(), **{name: value for name, value in given.items() if value is not None}}

    @property
    def encryption_keys(self) -> str:
        """Returns the keys of copies, or nothing."""
        return "" if self.backup_encryption_key is None else self.backup_encryption_key.get_secret_value()

    @property
    def production(self) -> bool:
        """Returns whether `NODE_ENV` is `production`, in any capitalization."""
        return self.node_env.strip().lower() == PRODUCTION

    @property
    def contained(self) -> bool:
        """Returns whether the environment is that of a container on Railway or Kubernetes."""
        return any(name.startswith("RAILWAY_") or name == "KUBERNETES_SERVICE_HOST" for name in os.environ)

    @property
    def railway_volume(self) -> str:
        """Returns where Railway mounts the service's volume, or nothing if it does not say so."""
        return os.environ.get("RAILWAY_VOLUME_MOUNT_PATH", "")

    @property
    def metrics_need_token(self) -> bool:
        """Returns whether `/metrics` is refused without a token."""
        return self.metrics_token is not None or (self.production and not self.metrics_public)

    @property
    def metrics_listener(self) -> tuple[str, int] | None:
        """Returns the address and the port of `/metrics` alone, or None if it has none."""
        if self.metrics_address is None:
            return None
        host, _, port = self.metrics_address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def has_other_identities(self) -> bool:
        """Returns whether a source of identities besides our own secret was configured explicitly."""
        given = self.model_fields_set & {"emblem_jwks_url", "emblem_api_url"}
        return any(getattr(self, name) for name in given)

    @property
    def loopback(self) -> bool:
        """Returns whether only this machine can connect."""
        return self.listen_address in ("127.0.0.1", "::1", "localhost")

    def shown(self) -> dict[str, str]:
        """Returns every setting by the name of its environment variable. A secret is shown as `set`."""
        return {name.upper(): as_text(getattr(self, name)) for name in type(self).model_fields}


class ClientSettings(BaseSettings):
    """The settings of the commands that call a server."""

    model_config = SettingsConfigDict(
        env_prefix="METAMORPH_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    target: str = Field(default="localhost:50051", description="Server to connect to, host:port.")
    token: SecretStr | None = Field(default=None, description="Token to send. Not needed in dev mode.")
    vault: str | None = Field(default=None, description="Vault to use in dev mode.")
    tls: bool = Field(default=False, description="Connect over TLS.")
    ca: Path | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's. Connects over TLS."
    )
    cert: Path | None = Field(
        default=None, description="PEM file of the certificate to present if the server asks for one (mTLS)."
    )
    key: Path | None = Field(default=None, description="PEM file of the key of METAMORPH_CERT.")

    @property
    def over_tls(self) -> bool:
        """Returns whether the connection is encrypted."""
        return self.tls or self.ca is not None or self.cert is not None

    @property
    def sent_token(self) -> str | None:
        """Returns the token to send, if there is one."""
        return None if self.token is None else self.token.get_secret_value()


def as_text(value: object) -> str:
    """Returns a setting's value in the form of its environment variable, or `set` for a secret."""
    if isinstance(value, SecretStr):
        return "set"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def load(**overrides: Any) -> Settings:
    """Reads the settings. `overrides` that are not None replace the environment's. Raises StartupRefused."""
    settings = _read(**{name: value for name, value in overrides.items() if value is not None})
    _refuse(_unsafe(settings))
    return settings


def load_dev(**overrides: Any) -> Settings:
    """Reads the settings like `load`, for `metamorph dev`: dev mode on loopback, no rate limit unless one is set."""
    dev: dict[str, Any] = {"emblem_dev_mode": True, "listen_address": "127.0.0.1", "emblem_api_url": ""}
    if "rate_limit_requests" not in _read().model_fields_set:
        dev["rate_limit_requests"] = 0
    return load(**(dev | overrides))


def load_client(**overrides: Any) -> ClientSettings:
    """Reads the settings of a client. `overrides` that are not empty replace the environment's.

    Raises StartupRefused.
    """
    settings = _valid(ClientSettings, **{name: value for name, value in overrides.items() if value})
    if (settings.cert is None) != (settings.key is None):
        raise StartupRefused(
            "METAMORPH_CERT and METAMORPH_KEY (--cert, --key) must be set together; set both or neither"
        )
    return settings


def load_paths() -> Settings:
    """Reads the settings for work on the files of a server that does not run. Raises StartupRefused."""
    return _read()


def load_signing() -> Settings:
    """Reads the settings for minting tokens. Raises StartupRefused if the secret is missing or too short."""
    settings = _read()
    _refuse(_short_secret(settings))
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
    return settings, list(_unsafe(settings))


def environment() -> Mapping[str, str]:
    """Returns the environment by names in capitals, in which settings are read."""
    return {name.upper(): value for name, value in os.environ.items()}


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


def _unsafe(settings: Settings) -> Iterator[str]:
    """Yields all that keeps a server from starting."""
    yield from _short_secret(settings)
    if settings.production and settings.anthropic_api_key is None:
        yield "ANTHROPIC_API_KEY is required in production; set it to a Claude API key"
    yield from _unsafe_metrics(settings)
    if settings.emblem_dev_mode:
        yield from _public_dev_mode(settings)
    elif settings.emblem_jwt_secret is None and (settings.production or not settings.has_other_identities):
        yield f"{MISSING_SIGNING_KEY}, or run `metamorph dev`"
    yield from _unsafe_web(settings)
    yield from _unsafe_port(settings)
    yield from _unsafe_replica(settings)


def _unsafe_replica(settings: Settings) -> Iterator[str]:
    given = {"REPLICA_URL": settings.replica_url, "PRIMARY_ADDRESS": settings.primary_address}
    missing = [name for name, value in given.items() if value is None]
    if settings.read_only and missing:
        yield f"READ_ONLY=true requires {' and '.join(missing)}; set {'it' if len(missing) == 1 else 'them'} too"
    url = settings.replica_url
    if url is not None and not re.match(r"s3://[^/?@]+([/?]|$)|file:///", url):
        yield "REPLICA_URL must begin with s3:// or file:///"


def _short_secret(settings: Settings) -> Iterator[str]:
    if any(len(secret) < SHORTEST_SECRET for secret in settings.jwt_secrets):
        current = settings.emblem_jwt_secret
        short = current is not None and len(current.get_secret_value()) < SHORTEST_SECRET
        yield (
            f"EMBLEM_JWT_SECRET{'' if short else '_PREVIOUS'} has fewer than {SHORTEST_SECRET} characters; "
            "make one with `openssl rand -hex 32`"
        )


def _unsafe_metrics(settings: Settings) -> Iterator[str]:
    token = settings.metrics_token
    if token is not None and settings.metrics_public:
        yield "METRICS_TOKEN has no effect with METRICS_PUBLIC=true; set one of them"
    if token is not None and len(token.get_secret_value()) < SHORTEST_SECRET:
        yield f"METRICS_TOKEN has fewer than {SHORTEST_SECRET} characters; make one with `openssl rand -hex 32`"


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return url.startswith("https://") and bool(parts.hostname and parts.hostname.strip()) and parts.port != 0
    except ValueError:
        return False


def _unsafe_web(settings: Settings) -> Iterator[str]:
    """Yields a fault if tokens would be sent or keys fetched over plain HTTP, except on this machine."""
    api = settings.emblem_api_url
    if api is not None and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", api):
        yield "EMBLEM_API_URL must begin with https://, or be empty to use no Emblem API"
    if settings.emblem_jwks_url is not None and not _has_host(settings.emblem_jwks_url):
        yield "EMBLEM_JWKS_URL must begin with https:// and a host"
    # A key set is often shared: without them, a token that was issued for another service would count here.
    required = {"EMBLEM_JWT_ISSUER": settings.emblem_jwt_issuer, "EMBLEM_JWT_AUDIENCE": settings.emblem_jwt_audience}
    missing = [name for name, value in required.items() if not (value and value.strip())]
    if settings.production and settings.emblem_jwks_url is not None and missing:
        yield f"{' and '.join(missing)} must be set in production if EMBLEM_JWKS_URL is; set them too"
    if settings.emblem_jwks_url is None and (settings.emblem_jwks_vaults or settings.emblem_jwks_operators):
        name = "EMBLEM_JWKS_VAULTS" if settings.emblem_jwks_vaults else "EMBLEM_JWKS_OPERATORS"
        yield f"{name} has no effect without EMBLEM_JWKS_URL; set both or neither"


def _unsafe_port(settings: Settings) -> Iterator[str]:
    tls = settings.grpc_tls_cert
    if (tls is None) != (settings.grpc_tls_key is None):
        yield "GRPC_TLS_CERT and GRPC_TLS_KEY must be set together; set both or neither"
    if tls is None and settings.grpc_tls_client_ca is not None:
        yield "GRPC_TLS_CLIENT_CA requires GRPC_TLS_CERT and GRPC_TLS_KEY; set them too"
    # Railway's TCP proxy is open to the internet and forwards bytes unchanged.
    proxied = os.environ.get("RAILWAY_TCP_APPLICATION_PORT") == str(settings.grpc_port)
    if settings.production and proxied and tls is None:
        yield (
            "the gRPC port is exposed by a public TCP proxy (RAILWAY_TCP_APPLICATION_PORT) without TLS; "
            "set GRPC_TLS_CERT and GRPC_TLS_KEY, or remove the proxy"
        )


def _public_dev_mode(settings: Settings) -> Iterator[str]:
    """Yields a fault if dev mode, which accepts every caller, is reachable from outside or on in production."""
    if settings.production:
        yield "EMBLEM_DEV_MODE=true is refused with NODE_ENV=production; set it to false"
    railway = next((name for name in sorted(os.environ) if name.startswith("RAILWAY_")), None)
    if railway is not None:
        yield f"EMBLEM_DEV_MODE=true is refused on Railway ({railway} is set); set it to false"
    if not settings.loopback:
        yield ("EMBLEM_DEV_MODE=true requires a loopback address; set LISTEN_ADDRESS=127.0.0.1 or run `metamorph dev`")
