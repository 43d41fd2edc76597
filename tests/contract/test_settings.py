"""Settings are complete and documented, and unsafe ones are refused."""

import itertools
from typing import Any

import pytest
from metamorphd.errors import StartupRefused
from metamorphd.settings import loading
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.server import Settings

from tests.support.tokens import SECRET

PRODUCTION = {"NODE_ENV": "production", "ANTHROPIC_API_KEY": "sk-canary", "EMBLEM_JWT_SECRET": SECRET}
DEV = {"EMBLEM_DEV_MODE": "true", "LISTEN_ADDRESS": "127.0.0.1"}


KEY_SET = {"EMBLEM_JWKS_URL": "https://id.example/keys"}
READING = {"READ_ONLY": "true", "REPLICA_URL": "file:///replica", "PRIMARY_ADDRESS": "[::1]:50051"}
ISSUED = {"EMBLEM_JWT_ISSUER": "https://id.example", "EMBLEM_JWT_AUDIENCE": "chat"}


@pytest.mark.parametrize("group", [Settings, ClientSettings])
def test_every_setting_is_described(group: type[Settings | ClientSettings]) -> None:
    assert [name for name, field in group.model_fields.items() if not field.description] == []


def test_the_variables_of_the_guide_keep_their_names_and_defaults() -> None:
    loaded = loading.load(emblem_jwt_secret=SECRET)
    assert (loaded.port, loaded.grpc_port, loaded.emblem_dev_mode) == (3001, 50051, False)
    assert (loaded.rate_limit_requests, loaded.rate_limit_window_seconds) == (100, 900)
    assert (str(loaded.database_path), loaded.sqlite_synchronous) == ("data/metamorph.db", "FULL")


CERTIFICATE = {"GRPC_TLS_CERT": "/tls/cert.pem", "GRPC_TLS_KEY": "/tls/key.pem"}
PROXIED = {"RAILWAY_TCP_APPLICATION_PORT": "50051"}
STAMPED = {
    "AUDIT_KEY": SECRET,
    "AUDIT_TSA_URL": "http://stamps.example/tsr",
    "AUDIT_TSA_CERTIFICATES": "/tls/stamps.pem",
}


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        PRODUCTION,
        DEV,
        {"EMBLEM_JWT_SECRET": SECRET},
        {"EMBLEM_API_URL": "https://id.example"},
        {"EMBLEM_API_URL": "http://127.0.0.1:8000"},
        KEY_SET,
        KEY_SET | {"EMBLEM_JWKS_VAULTS": "acme-*, a.b:c", "EMBLEM_JWKS_OPERATORS": "true"},
        PRODUCTION | KEY_SET | ISSUED,
        {"EMBLEM_JWT_SECRET": SECRET, "TOKEN_ENCRYPTION_KEY": SECRET, "TOKEN_ENCRYPTION_KEY_PREVIOUS": SECRET},
        {"EMBLEM_JWT_SECRET": SECRET, "TOKEN_ENCRYPTION_KEY_FILE": "/keys", "TOKEN_ENCRYPTION_KEY_PREVIOUS": SECRET},
        {"EMBLEM_JWT_SECRET": SECRET, "RATE_LIMIT_STORAGE": "memory"},
        {"EMBLEM_JWT_SECRET": SECRET, "RATE_LIMIT_STORAGE": "rediss://redis:6379/0"},
        PRODUCTION | PROXIED | CERTIFICATE,
        PRODUCTION | PROXIED | {"GRPC_PORT": "50052"},
        {"EMBLEM_JWT_SECRET": SECRET} | PROXIED,
        {"EMBLEM_JWT_SECRET": SECRET, "METRICS_ADDRESS": "[::]:9464", "METRICS_TOKEN": SECRET},
        {"EMBLEM_JWT_SECRET": SECRET, "METRICS_ADDRESS": "metrics.internal:0", "METRICS_PUBLIC": "true"},
        {"EMBLEM_JWT_SECRET": SECRET} | CERTIFICATE | {"GRPC_TLS_CLIENT_CA": "/tls/ca.pem"},
        {"EMBLEM_JWT_SECRET": SECRET, "SENTRY_DSN": "https://0a1b@o1.ingest.sentry.io/42", "SENTRY_ENVIRONMENT": "eu"},
        {"EMBLEM_JWT_SECRET": SECRET, "SENTRY_DSN": "https://0a1b@sentry.internal:9000/behind/a/path/42"},
        {"EMBLEM_JWT_SECRET": SECRET, "REPLICA_URL": "s3://bucket/here?region=auto"},
        {"EMBLEM_JWT_SECRET": SECRET, "PRIMARY_ADDRESS": "primary.internal:50051"},
        {"EMBLEM_JWT_SECRET": SECRET} | READING,
        {"EMBLEM_JWT_SECRET": SECRET} | STAMPED,
    ],
)
def test_safe_settings_are_accepted(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    set_environment(monkeypatch, variables)
    assert loading.load()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "EMBLEM_JWT_SECRET"),
        (PRODUCTION | {"ANTHROPIC_API_KEY": ""}, "ANTHROPIC_API_KEY"),
        (PRODUCTION | {"EMBLEM_JWT_SECRET": ""}, "EMBLEM_JWT_SECRET"),
        (PRODUCTION | {"EMBLEM_JWT_SECRET": "canary" * 5}, "EMBLEM_JWT_SECRET has"),
        (DEV | {"EMBLEM_JWT_SECRET": "canary"}, "EMBLEM_JWT_SECRET"),
        (PRODUCTION | {"TOKEN_ENCRYPTION_KEY": "canary"}, "TOKEN_ENCRYPTION_KEY has"),
        (
            PRODUCTION | {"TOKEN_ENCRYPTION_KEY": SECRET, "TOKEN_ENCRYPTION_KEY_PREVIOUS": f"{SECRET},canary"},
            "TOKEN_ENCRYPTION_KEY_PREVIOUS has",
        ),
        (PRODUCTION | {"TOKEN_ENCRYPTION_KEY_PREVIOUS": SECRET}, "TOKEN_ENCRYPTION_KEY_PREVIOUS"),
        (PRODUCTION | {"TOKEN_ENCRYPTION_KEY": SECRET, "TOKEN_ENCRYPTION_KEY_FILE": "/k"}, "TOKEN_ENCRYPTION_KEY_FILE"),
        (PRODUCTION | {"EMBLEM_JWT_SECRET_PREVIOUS": f"{SECRET},canary"}, "EMBLEM_JWT_SECRET_PREVIOUS"),
        (
            PRODUCTION | {"EMBLEM_JWT_SECRET": SECRET[:32], "EMBLEM_JWT_SECRET_PREVIOUS": "canary"},
            "EMBLEM_JWT_SECRET_PREVIOUS",
        ),
        (PRODUCTION | DEV, "EMBLEM_DEV_MODE"),
        (DEV | {"RAILWAY_ENVIRONMENT": "production"}, "EMBLEM_DEV_MODE"),
        (DEV | {"RAILWAY_ANYTHING": ""}, "EMBLEM_DEV_MODE"),
        (DEV | {"LISTEN_ADDRESS": "::"}, "EMBLEM_DEV_MODE"),
        (DEV | {"LISTEN_ADDRESS": "0.0.0.0"}, "EMBLEM_DEV_MODE"),
        ({"EMBLEM_DEV_MODE": "true"}, "EMBLEM_DEV_MODE"),
        *(
            (DEV | {"EMBLEM_DEV_MODE": value}, "EMBLEM_DEV_MODE")
            for value in ("1", "yes", "True", "TRUE", " true", "on")
        ),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_DEV_MODE": "False"}, "EMBLEM_DEV_MODE"),
        ({"EMBLEM_JWT_SECRET": SECRET, "PORT": "canary"}, "PORT"),
        ({"EMBLEM_JWT_SECRET": SECRET, "GRPC_PORT": "70000"}, "GRPC_PORT"),
        ({"EMBLEM_JWT_SECRET": SECRET, "RATE_LIMIT_REQUESTS": "-1"}, "RATE_LIMIT_REQUESTS"),
        ({"EMBLEM_JWT_SECRET": SECRET, "TURN_TIMEOUT_SECONDS": "0"}, "TURN_TIMEOUT_SECONDS"),
        *(
            ({"EMBLEM_JWT_SECRET": SECRET, name: value}, name)
            for name in (
                "BACKUP_INTERVAL_HOURS",
                "BACKUP_RETENTION_DAYS",
                "EVENT_RETENTION_HOURS",
                "REQUEST_RETENTION_DAYS",
                "CHANGE_RETENTION_DAYS",
                "RATE_LIMIT_WINDOW_SECONDS",
                "TURN_TIMEOUT_SECONDS",
                "SHUTDOWN_GRACE_SECONDS",
                "REPLICA_INTERVAL_SECONDS",
                "ANTHROPIC_STALL_SECONDS",
            )
            for value in ("inf", "nan", "1e300")
        ),
        ({"EMBLEM_JWT_SECRET": SECRET, "SQLITE_SYNCHRONOUS": "OFF"}, "SQLITE_SYNCHRONOUS"),
        ({"EMBLEM_JWT_SECRET": SECRET, "LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"EMBLEM_API_URL": ""}, "EMBLEM_JWT_SECRET"),
        (PRODUCTION | {"EMBLEM_JWT_SECRET": "", "EMBLEM_JWKS_URL": "https://id.example"}, "EMBLEM_JWT_SECRET"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_API_URL": "http://id.example"}, "EMBLEM_API_URL"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_URL": "http://id.example"}, "EMBLEM_JWKS_URL"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_URL": "http://127.0.0.1/keys"}, "EMBLEM_JWKS_URL"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_URL": "https://"}, "EMBLEM_JWKS_URL"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_URL": "https:///keys"}, "EMBLEM_JWKS_URL"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_URL": "https://id.example:port/keys"}, "EMBLEM_JWKS_URL"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_URL": "https://[id.example/keys"}, "EMBLEM_JWKS_URL"),
        (PRODUCTION | KEY_SET, "EMBLEM_JWT_ISSUER and EMBLEM_JWT_AUDIENCE"),
        (PRODUCTION | KEY_SET | ISSUED | {"EMBLEM_JWT_ISSUER": " "}, "EMBLEM_JWT_ISSUER"),
        (PRODUCTION | KEY_SET | ISSUED | {"EMBLEM_JWT_ISSUER": ""}, "EMBLEM_JWT_ISSUER"),
        (PRODUCTION | KEY_SET | ISSUED | {"EMBLEM_JWT_AUDIENCE": ""}, "EMBLEM_JWT_AUDIENCE"),
        (KEY_SET | {"EMBLEM_JWKS_OPERATORS": "yes"}, "EMBLEM_JWKS_OPERATORS"),
        (KEY_SET | {"EMBLEM_JWKS_VAULTS": "(canary)"}, "EMBLEM_JWKS_VAULTS"),
        (KEY_SET | {"EMBLEM_JWKS_VAULTS": "acme,"}, "EMBLEM_JWKS_VAULTS"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_VAULTS": "acme"}, "EMBLEM_JWKS_VAULTS"),
        ({"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_JWKS_OPERATORS": "true"}, "EMBLEM_JWKS_OPERATORS"),
        *(
            ({"EMBLEM_JWT_SECRET": SECRET, "RATE_LIMIT_STORAGE": value}, "RATE_LIMIT_STORAGE")
            for value in ("canary", "redis://[canary", "redis://canary:port", "redis://")
        ),
        ({"EMBLEM_JWT_SECRET": SECRET, "GRPC_TLS_CERT": "cert.pem"}, "GRPC_TLS_KEY"),
        ({"EMBLEM_JWT_SECRET": SECRET, "GRPC_TLS_KEY": "canary"}, "GRPC_TLS_CERT"),
        ({"EMBLEM_JWT_SECRET": SECRET, "GRPC_TLS_CLIENT_CA": "ca.pem"}, "GRPC_TLS_CLIENT_CA"),
        *(
            ({"EMBLEM_JWT_SECRET": SECRET, "METRICS_ADDRESS": value}, "METRICS_ADDRESS")
            for value in ("canary", ":9464", "a:b", "::1:9464", "a..b:9464", "localhost:65536", "localhost:9464/canary")
        ),
        ({"EMBLEM_JWT_SECRET": SECRET, "METRICS_TOKEN": "canary"}, "METRICS_TOKEN"),
        ({"EMBLEM_JWT_SECRET": SECRET, "METRICS_TOKEN": "canary ü" * 5}, "METRICS_TOKEN"),
        ({"EMBLEM_JWT_SECRET": SECRET, "METRICS_TOKEN": SECRET, "METRICS_PUBLIC": "true"}, "METRICS_PUBLIC"),
        ({"EMBLEM_JWT_SECRET": SECRET, "METRICS_PUBLIC": "yes"}, "METRICS_PUBLIC"),
        *(
            ({"EMBLEM_JWT_SECRET": SECRET, "SENTRY_DSN": value}, "SENTRY_DSN")
            for value in ("canary", "https://sentry.io/42", "https://0a1b@sentry.io/canary", "http://0a1b@sentry.io/42")
        ),
        (PRODUCTION | PROXIED, "RAILWAY_TCP_APPLICATION_PORT"),
        (PRODUCTION | READING | {"REPLICA_URL": ""}, "READ_ONLY=true requires REPLICA_URL; set it too"),
        (PRODUCTION | READING | {"PRIMARY_ADDRESS": ""}, "READ_ONLY=true requires PRIMARY_ADDRESS; set it too"),
        (
            PRODUCTION | READING | {"REPLICA_URL": "", "PRIMARY_ADDRESS": ""},
            "REPLICA_URL and PRIMARY_ADDRESS; set them",
        ),
        (PRODUCTION | READING | {"READ_ONLY": "1"}, "READ_ONLY"),
        (PRODUCTION | READING | {"PRIMARY_ADDRESS": "canary"}, "PRIMARY_ADDRESS"),
        (PRODUCTION | STAMPED | {"AUDIT_KEY": ""}, "AUDIT_TSA_URL has no effect without AUDIT_KEY"),
        (PRODUCTION | STAMPED | {"AUDIT_TSA_URL": ""}, "AUDIT_TSA_URL and AUDIT_TSA_CERTIFICATES"),
        (PRODUCTION | STAMPED | {"AUDIT_TSA_CERTIFICATES": ""}, "AUDIT_TSA_URL and AUDIT_TSA_CERTIFICATES"),
        *(
            (PRODUCTION | STAMPED | {"AUDIT_TSA_URL": url}, "AUDIT_TSA_URL")
            for url in ("canary", "ftp://canary", "http://", "http://a:canary@stamps.example", "http://stamps:canary")
        ),
        (PRODUCTION | STAMPED | {"AUDIT_TSA_INTERVAL_MINUTES": "0"}, "AUDIT_TSA_INTERVAL_MINUTES"),
        *(
            (PRODUCTION | {"REPLICA_URL": url}, "REPLICA_URL must begin with s3:// or file:///")
            for url in ("canary", "https://canary", "s3://", "s3://key:canary@bucket/here", "file://canary")
        ),
    ],
)
def test_unsafe_or_invalid_settings_are_refused_in_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    set_environment(monkeypatch, variables)
    with pytest.raises(StartupRefused) as refusal:
        loading.load()
    message = str(refusal.value)
    assert named in message
    assert "\n" not in message
    assert "canary" not in message


def test_dev_is_unlimited_on_loopback_unless_a_limit_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: Any = loading.load_dev(grpc_port=0)
    assert (loaded.emblem_dev_mode, loaded.listen_address, loaded.rate_limit_requests) == (True, "127.0.0.1", 0)
    monkeypatch.setenv("RATE_LIMIT_REQUESTS", "7")
    assert loading.load_dev().rate_limit_requests == 7
    monkeypatch.setenv("NODE_ENV", "production")
    with pytest.raises(StartupRefused):
        loading.load_dev()


def test_an_empty_variable_counts_as_unset_except_emblem_api_url(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.load(emblem_jwt_secret=SECRET).emblem_api_url == "https://api.emblemvault.ai"
    set_environment(monkeypatch, {"EMBLEM_JWT_SECRET": SECRET, "EMBLEM_API_URL": "", "GRPC_PORT": "", "LOG_LEVEL": ""})
    loaded = loading.load()
    assert (loaded.emblem_api_url, loaded.grpc_port, loaded.log_level) == (None, 50051, "info")
    monkeypatch.delenv("EMBLEM_API_URL")
    assert loading.load_dev().emblem_api_url is None


TRUTHS = ("true", "True", "TRUE", "1", "yes", "on", " true", "true ", "t")
FALSEHOODS = ("false", "False", "0", "no", "off", " false")
ENVIRONMENTS = ("", "development", "test", "staging", "production", "Production", "PRODUCTION", " production")
PLACES: tuple[dict[str, str], ...] = (
    {},
    {"RAILWAY_ENVIRONMENT": "production"},
    {"RAILWAY_ANYTHING": ""},
    {"RAILWAY_TCP_APPLICATION_PORT": "50051"},
)
LOOPBACKS = ("127.0.0.1", "::1", "localhost")
ADDRESSES = (
    "",
    "::",
    "0.0.0.0",
    "10.0.0.1",
    "127.0.0.2",
    "fd12::1",
    "railway.internal",
    "LOCALHOST",
    "::ffff:127.0.0.1",
)


@pytest.mark.parametrize("value", TRUTHS)
def test_dev_mode_requires_true_on_loopback_outside_production(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for node_env, place, address in itertools.product(ENVIRONMENTS, PLACES, (*LOOPBACKS, *ADDRESSES)):
        variables = {"EMBLEM_DEV_MODE": value, "NODE_ENV": node_env, "LISTEN_ADDRESS": address, **place}
        variables |= {"EMBLEM_JWT_SECRET": SECRET, "ANTHROPIC_API_KEY": "key", **CERTIFICATE}
        with monkeypatch.context() as environment:
            set_environment(environment, variables)
            if value == "true" and "production" not in node_env.lower() and not place and address in LOOPBACKS:
                assert loading.load().emblem_dev_mode
                continue
            with pytest.raises(StartupRefused) as refusal:
                loading.load()
            assert "EMBLEM_DEV_MODE" in str(refusal.value)


@pytest.mark.parametrize("value", [None, "", *FALSEHOODS])
def test_dev_mode_is_off_unless_it_is_exactly_true(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    for node_env, place, address in itertools.product(ENVIRONMENTS, PLACES, (*LOOPBACKS, *ADDRESSES)):
        variables = {"NODE_ENV": node_env, "LISTEN_ADDRESS": address, **place}
        variables |= {"EMBLEM_JWT_SECRET": SECRET, "ANTHROPIC_API_KEY": "key", **CERTIFICATE}
        variables |= {} if value is None else {"EMBLEM_DEV_MODE": value}
        with monkeypatch.context() as environment:
            set_environment(environment, variables)
            if value in (None, "", "false"):
                assert not loading.load().emblem_dev_mode
                continue
            with pytest.raises(StartupRefused) as refusal:
                loading.load()
            assert "EMBLEM_DEV_MODE" in str(refusal.value)


@pytest.mark.parametrize(
    ("patterns", "vault", "matches"),
    [
        ("acme-*", "acme-1:2", True),
        ("acme-*", "acme", False),
        ("acme-*,a.b", "a.b", True),
        ("a.b , c", "axb", False),
        ("a.b , c", "c", True),
        ("*", "any", True),
        ("*-*", "a-b", True),
        # Whoever signs tokens chooses the vault ID, and it must not take hours.
        ("*-*-*-*-*-*-*-*-*-*-*-*-x", "a-" * 63 + "y", False),
        ("*-*-*-*-*-*-*-*-*-*-*-*-x", "a-" * 63 + "x", True),
    ],
)
def test_a_pattern_of_vaults_matches_whole_ids_however_many_stars_it_has(
    patterns: str, vault: str, matches: bool
) -> None:
    given = loading.load(**{name.lower(): value for name, value in KEY_SET.items()}, emblem_jwks_vaults=patterns)
    assert given.jwks_vaults is not None
    assert bool(given.jwks_vaults.fullmatch(vault)) == matches
