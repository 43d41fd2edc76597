"""The settings, each read from the environment under its own name. Nothing else reads the environment.

`python -m metamorphd.settings` prints `.env.example`.
"""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from metamorphd.errors import StartupRefused

SHORTEST_SECRET = 32
PRODUCTION = "production"
MISSING_SIGNING_KEY = "EMBLEM_JWT_SECRET is not set; make one with `openssl rand -hex 32` and set it"


def _exact_boolean(value: object) -> object:
    """Only `true` and `false`: what reads like one of them must not turn dev mode on, or seem to turn it off."""
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be exactly true or false")
    return value


def _log_level(value: str) -> str:
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return value.lower()


def _rate_limit_storage(value: object) -> object:
    """A secret, because such an address often has a password in it."""
    if value == "memory":
        return None
    if isinstance(value, str) and not value.startswith(("redis://", "rediss://")):
        raise ValueError("must be memory, redis://… or rediss://…")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The server's settings; the variable's name is the field's in capitals."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A variable that is set to nothing is not set; but EMBLEM_API_URL is then none, rather than its default."""
        told = {name: value for name, value in values.items() if value != ""}
        return told | ({"emblem_api_url": None} if values.get("emblem_api_url") == "" else {})

    anthropic_api_key: SecretStr | None = Field(
        default=None,
        description="Claude API key. Required in production; without it dev mode answers with an offline model.",
    )
    emblem_jwt_secret: SecretStr | None = Field(
        default=None,
        description="Signs the callers' tokens (HS256), 32 characters or more. Required unless in dev mode.",
    )
    emblem_jwt_secret_previous: SecretStr | None = Field(
        default=None, description="Older secrets that are still accepted, separated by commas: for rotation."
    )
    emblem_jwt_issuer: str | None = Field(default=None, description="Required `iss` of tokens, where it is set.")
    emblem_jwt_audience: str | None = Field(default=None, description="Required `aud` of tokens, where it is set.")
    emblem_jwks_url: str | None = Field(
        default=None, description="Public keys (JWKS, https) for tokens signed RS256, ES256 or EdDSA."
    )
    emblem_api_url: str | None = Field(
        default="https://api.emblemvault.ai",
        description="Asked about tokens that are not ours to verify; empty asks nobody. Dev mode asks nobody.",
    )
    database_path: Path = Field(
        default=Path("./data/metamorph.db"), description="SQLite file; on Railway /data/metamorph.db."
    )
    node_env: str = Field(default="development", description="`production` refuses to start half configured.")
    emblem_dev_mode: Annotated[bool, BeforeValidator(_exact_boolean)] = Field(
        default=False,
        description="Exactly `true` serves calls without a token, on the vault in x-vault-id.",
    )
    listen_address: str = Field(default="::", description="Address to listen on. `::` is every address, IPv4 too.")
    port: Port = Field(default=3001, description="HTTP: /health and /metrics.")
    grpc_port: Port = Field(default=50051, description="gRPC.")
    grpc_tls_cert: str | None = Field(
        default=None, description="TLS certificate chain for gRPC: PEM text or a file, which may change."
    )
    grpc_tls_key: SecretStr | None = Field(default=None, description="Its key, likewise.")
    grpc_tls_client_ca: str | None = Field(
        default=None, description="Authorities whose certificates clients must show (mTLS), likewise."
    )
    anthropic_base_url: str | None = Field(default=None, description="Where the Messages API is, if not at Anthropic.")
    anthropic_max_retries: int = Field(
        default=2, ge=0, le=10, description="How often a call to the model is tried again before its first event."
    )
    anthropic_stall_seconds: float = Field(
        default=60, gt=0, description="A model that is silent for so long has failed the turn."
    )
    compaction_trigger_tokens: int = Field(
        default=150_000,
        ge=0,
        description="A call that would read more has what came before summarised for the model; 0 never does.",
    )
    default_model: str = Field(
        default="claude-sonnet-5-5", description="The model where neither session nor vault names one."
    )
    model_catalog: Path | None = Field(
        default=None,
        description="JSON file of the models that may be asked, and their prices, instead of the server's own.",
    )
    session_title_model: str = Field(
        default="",
        description="Names sessions that have no title after a reply, for example claude-haiku-5-5; empty: none does.",
    )
    max_output_tokens: int = Field(default=32_000, ge=1, le=131_072, description="The longest reply, in tokens.")
    max_content_bytes: int = Field(
        default=1_048_576, ge=1, le=1_048_576, description="The largest content of one message, in bytes of text."
    )
    max_attachment_bytes: int = Field(
        default=20_971_520, ge=1, le=33_554_432, description="The largest image or document, in bytes."
    )
    rate_limit_requests: int = Field(
        default=100, ge=0, description="Calls per user and window; 0 turns the limit off, as `metamorph dev` does."
    )
    rate_limit_window_seconds: float = Field(default=900, gt=0, description="The window, in seconds.")
    rate_limit_storage: Annotated[SecretStr | None, BeforeValidator(_rate_limit_storage)] = Field(
        default=None, description="memory, the default, or redis://… to share the limits between replicas."
    )
    auth_failure_requests: int = Field(
        default=100, ge=0, description="Refused tokens per network address and window; 0 turns that limit off."
    )
    max_running_turns: int = Field(default=100, ge=1, description="Turns of one vault that may run at a time.")
    turn_timeout_seconds: float = Field(default=600, gt=0, description="A turn's own time limit, in seconds.")
    event_retention_hours: float = Field(
        default=24, ge=24, description="How long a turn's events can be replayed after its end; its messages stay."
    )
    shutdown_grace_seconds: float = Field(
        default=25, ge=0, description="How long running turns may go on after SIGTERM."
    )
    sqlite_synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL", description="NORMAL is faster and may lose acknowledged writes at a power cut."
    )
    log_level: Annotated[str, AfterValidator(_log_level)] = Field(
        default="info", description="debug, info, warning or error."
    )

    @property
    def jwt_secrets(self) -> list[str]:
        """What tokens may be signed with, the current secret first."""
        current = [] if self.emblem_jwt_secret is None else [self.emblem_jwt_secret.get_secret_value()]
        previous = self.emblem_jwt_secret_previous
        older = [] if previous is None else previous.get_secret_value().split(",")
        return current + [secret.strip() for secret in older if secret.strip()]

    @property
    def production(self) -> bool:
        """Whether the guide's `NODE_ENV=production` is set, however it is capitalised."""
        return self.node_env.strip().lower() == PRODUCTION

    @property
    def others_vouch(self) -> bool:
        """Whether it was said who vouches for tokens, if not a secret of our own."""
        told = self.model_fields_set & {"emblem_jwks_url", "emblem_api_url"}
        return any(getattr(self, name) for name in told)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.listen_address in ("127.0.0.1", "::1", "localhost")

    @property
    def warnings(self) -> list[str]:
        """What an operator should know of, in words."""
        if self.grpc_tls_cert is None and not self.loopback:
            return ["gRPC is served without TLS: only a private, encrypted network may lead to this port"]
        return []

    def shown(self) -> dict[str, str]:
        """Every setting by its variable's name, as text; of a secret only whether it is set."""
        return {name.upper(): _shown(getattr(self, name)) for name in type(self).model_fields}


class ClientSettings(BaseSettings):
    """What `metamorph chat` is told by the environment."""

    model_config = SettingsConfigDict(
        env_prefix="METAMORPH_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    target: str = Field(default="localhost:50051", description="Server that `metamorph chat` talks to.")
    token: SecretStr | None = Field(default=None, description="Token that `metamorph chat` sends; none in dev mode.")
    vault: str | None = Field(default=None, description="Vault that `metamorph chat` acts on in dev mode.")


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "set"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def load(**overrides: Any) -> Settings:
    """Reads the settings; `overrides` win over the environment, None is none. Raises StartupRefused, in one line."""
    settings = _read(**{name: value for name, value in overrides.items() if value is not None})
    _refuse_unsafe(settings)
    return settings


def load_dev(**overrides: Any) -> Settings:
    """As `load`, for `metamorph dev`: dev mode on loopback, and no rate limit unless one is set."""
    dev: dict[str, Any] = {"emblem_dev_mode": True, "listen_address": "127.0.0.1", "emblem_api_url": ""}
    if "rate_limit_requests" not in _read().model_fields_set:
        dev["rate_limit_requests"] = 0
    return load(**(dev | overrides))


def load_signing() -> Settings:
    """With what tokens are signed. Raises StartupRefused when there is no secret, or it is too short."""
    settings = _read()
    _refuse_short_secret(settings)
    if settings.emblem_jwt_secret is None:
        raise StartupRefused(MISSING_SIGNING_KEY)
    return settings


def _read(**overrides: Any) -> Settings:
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        # Without the value: it may be a secret.
        wrong = "; ".join(f"{str(error['loc'][0]).upper()}: {error['msg']}" for error in exc.errors())
        raise StartupRefused(f"settings are not acceptable: {wrong}") from None


def _refuse_unsafe(settings: Settings) -> None:
    _refuse_short_secret(settings)
    if settings.production and settings.anthropic_api_key is None:
        raise StartupRefused("ANTHROPIC_API_KEY is not set; production needs it, set it to a Claude API key")
    if settings.emblem_dev_mode:
        _refuse_public_dev_mode(settings)
    elif settings.emblem_jwt_secret is None and (settings.production or not settings.others_vouch):
        raise StartupRefused(f"{MISSING_SIGNING_KEY}, or run `metamorph dev`")
    _refuse_unsafe_web(settings)
    _refuse_unsafe_port(settings)


def _refuse_short_secret(settings: Settings) -> None:
    if any(len(secret) < SHORTEST_SECRET for secret in settings.jwt_secrets):
        current = settings.emblem_jwt_secret
        short = current is not None and len(current.get_secret_value()) < SHORTEST_SECRET
        raise StartupRefused(
            f"EMBLEM_JWT_SECRET{'' if short else '_PREVIOUS'} has fewer than {SHORTEST_SECRET} characters; "
            "make one with `openssl rand -hex 32`"
        )


def _refuse_unsafe_web(settings: Settings) -> None:
    """Tokens and keys travel encrypted, but on this machine."""
    api = settings.emblem_api_url
    if api is not None and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", api):
        raise StartupRefused("EMBLEM_API_URL must begin with https://, or be empty to ask nobody")
    if settings.emblem_jwks_url is not None and not settings.emblem_jwks_url.startswith("https://"):
        raise StartupRefused("EMBLEM_JWKS_URL must begin with https://")


def _refuse_unsafe_port(settings: Settings) -> None:
    tls = settings.grpc_tls_cert
    if (tls is None) != (settings.grpc_tls_key is None):
        raise StartupRefused("GRPC_TLS_CERT and GRPC_TLS_KEY belong together; set both or none")
    if tls is None and settings.grpc_tls_client_ca is not None:
        raise StartupRefused("GRPC_TLS_CLIENT_CA needs GRPC_TLS_CERT and GRPC_TLS_KEY; set them too")
    # Railway's TCP proxy is open to the internet, and passes on what it gets.
    proxied = os.environ.get("RAILWAY_TCP_APPLICATION_PORT") == str(settings.grpc_port)
    if settings.production and proxied and tls is None:
        raise StartupRefused(
            "a public TCP proxy leads to the gRPC port (RAILWAY_TCP_APPLICATION_PORT) and there is no TLS; "
            "set GRPC_TLS_CERT and GRPC_TLS_KEY, or remove the proxy"
        )


def _refuse_public_dev_mode(settings: Settings) -> None:
    """Dev mode lets everybody in: it must not be reachable, nor be on where the guide's production is."""
    if settings.production:
        raise StartupRefused("EMBLEM_DEV_MODE=true is refused with NODE_ENV=production; set it to false")
    railway = next((name for name in sorted(os.environ) if name.startswith("RAILWAY_")), None)
    if railway is not None:
        raise StartupRefused(f"EMBLEM_DEV_MODE=true is refused on Railway ({railway} is set); set it to false")
    if not settings.loopback:
        raise StartupRefused(
            "EMBLEM_DEV_MODE=true needs a loopback address; set LISTEN_ADDRESS=127.0.0.1 or run `metamorph dev`"
        )


def example() -> str:
    """`.env.example`: every variable with its meaning and default."""
    lines = ["# Made from the settings by `make generate`. Copy to .env, fill in, never commit that."]
    for group in (Settings, ClientSettings):
        prefix = str(group.model_config.get("env_prefix", ""))
        for name, field in group.model_fields.items():
            default = "" if field.default is None else _shown(field.default)
            lines += ["", f"# {field.description}", f"{prefix}{name.upper()}={default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(example())
