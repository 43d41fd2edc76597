"""All that keeps a server from starting with settings whose every value is valid."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from pydantic import SecretStr

from metamorphd.settings.environment import proxied_port, railway_name
from metamorphd.settings.server import Settings

SHORTEST_SECRET = 32
MISSING_SIGNING_KEY = (
    "EMBLEM_JWT_SECRET is not set; make one with `openssl rand -hex 32` and set it, "
    "the same for the server and for commands"
)


def faults_of(settings: Settings) -> Iterator[str]:
    """Yields all that keeps a server from starting."""
    yield from short_secret(settings)
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
    yield from _unsafe_keys(settings)


def short_secret(settings: Settings) -> Iterator[str]:
    """Yields a fault if a signing secret is too short."""
    yield from _short("EMBLEM_JWT_SECRET", settings.jwt_secrets, current=settings.emblem_jwt_secret)


def _short(name: str, texts: Sequence[str], *, current: SecretStr | None) -> Iterator[str]:
    if any(len(text) < SHORTEST_SECRET for text in texts):
        short = current is not None and len(current.get_secret_value()) < SHORTEST_SECRET
        yield (
            f"{name}{'' if short else '_PREVIOUS'} has fewer than {SHORTEST_SECRET} characters; "
            "make one with `openssl rand -hex 32`"
        )


def _unsafe_keys(settings: Settings) -> Iterator[str]:
    yield from _short("TOKEN_ENCRYPTION_KEY", settings.key_texts, current=settings.token_encryption_key)
    yield from _short("AUDIT_KEY", settings.audit_key_texts, current=settings.audit_key)
    if settings.audit_key_texts and settings.audit_key is None:
        yield "AUDIT_KEY_PREVIOUS has no effect without a current key; set AUDIT_KEY too"
    if settings.audit_tsa_url is not None and settings.audit_key is None:
        yield "AUDIT_TSA_URL has no effect without AUDIT_KEY, which makes what is time-stamped; set it too"
    if (settings.audit_tsa_url is None) != (settings.audit_tsa_certificates is None):
        yield "AUDIT_TSA_URL and AUDIT_TSA_CERTIFICATES must be set together; set both or neither"
    if settings.token_encryption_key is not None and settings.token_encryption_key_file is not None:
        yield (
            "TOKEN_ENCRYPTION_KEY has no effect with TOKEN_ENCRYPTION_KEY_FILE; to move to the file, "
            "rename it to TOKEN_ENCRYPTION_KEY_PREVIOUS"
        )
    if settings.key_texts and settings.token_encryption_key is None and settings.token_encryption_key_file is None:
        yield "TOKEN_ENCRYPTION_KEY_PREVIOUS has no effect without a current key; set TOKEN_ENCRYPTION_KEY too"


def _unsafe_metrics(settings: Settings) -> Iterator[str]:
    token = settings.metrics_token
    if token is not None and settings.metrics_public:
        yield "METRICS_TOKEN has no effect with METRICS_PUBLIC=true; set one of them"
    if token is not None and len(token.get_secret_value()) < SHORTEST_SECRET:
        yield f"METRICS_TOKEN has fewer than {SHORTEST_SECRET} characters; make one with `openssl rand -hex 32`"


def _public_dev_mode(settings: Settings) -> Iterator[str]:
    """Yields a fault if dev mode, which accepts every caller, is reachable from outside or on in production."""
    if settings.production:
        yield "EMBLEM_DEV_MODE=true is refused with NODE_ENV=production; set it to false"
    railway = railway_name()
    if railway is not None:
        yield f"EMBLEM_DEV_MODE=true is refused on Railway ({railway} is set); set it to false"
    if not settings.loopback:
        yield ("EMBLEM_DEV_MODE=true requires a loopback address; set LISTEN_ADDRESS=127.0.0.1 or run `metamorph dev`")


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


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return url.startswith("https://") and bool(parts.hostname and parts.hostname.strip()) and parts.port != 0
    except ValueError:
        return False


def _unsafe_port(settings: Settings) -> Iterator[str]:
    tls = settings.grpc_tls_cert
    if (tls is None) != (settings.grpc_tls_key is None):
        yield "GRPC_TLS_CERT and GRPC_TLS_KEY must be set together; set both or neither"
    if tls is None and settings.grpc_tls_client_ca is not None:
        yield "GRPC_TLS_CLIENT_CA requires GRPC_TLS_CERT and GRPC_TLS_KEY; set them too"
    # Railway's TCP proxy is open to the internet and forwards bytes unchanged.
    proxied = proxied_port() == str(settings.grpc_port)
    if settings.production and proxied and tls is None:
        yield (
            "the gRPC port is exposed by a public TCP proxy (RAILWAY_TCP_APPLICATION_PORT) without TLS; "
            "set GRPC_TLS_CERT and GRPC_TLS_KEY, or remove the proxy"
        )


def _unsafe_replica(settings: Settings) -> Iterator[str]:
    given = {"REPLICA_URL": settings.replica_url, "PRIMARY_ADDRESS": settings.primary_address}
    missing = [name for name, value in given.items() if value is None]
    if settings.read_only and missing:
        yield f"READ_ONLY=true requires {' and '.join(missing)}; set {'it' if len(missing) == 1 else 'them'} too"
    url = settings.replica_url
    if url is not None and not re.match(r"s3://[^/?@]+([/?]|$)|file:///", url):
        yield "REPLICA_URL must begin with s3:// or file:///"
