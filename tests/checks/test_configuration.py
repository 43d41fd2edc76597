"""Settings that can be read and still cannot be meant."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from metamorphd.checks.configuration import bad, check_settings
from metamorphd.clock import beginning
from metamorphd.keys.key_file import add_key
from metamorphd.models.finding import FindingStatus
from metamorphd.settings import loading

from tests.support.tokens import SECRET

TODAY = date(2026, 11, 27)
FAILED, WARNING = FindingStatus.FAILED, FindingStatus.WARNING
PRODUCTION: dict[str, Any] = {
    "node_env": "production",
    "anthropic_api_key": "sk-ant-canary",
    "audit_key": "canary-audit-0123456789abcdefghij",
    "database_path": "/data/metamorph.db",
    "emblem_jwt_secret_date": "2026-11-01",
    "grpc_tls_cert": "/cert.pem",
    "grpc_tls_key": "/key.pem",
}

KEY = {"token_encryption_key": "canary-0123456789abcdef0123456789"}


def found(**overrides: Any) -> list[tuple[str, FindingStatus]]:
    """Returns what is wrong with settings, after checking that each finding has a remedy and no secret."""
    loaded = loading.load(**({"emblem_jwt_secret": SECRET, "listen_address": "127.0.0.1"} | overrides))
    findings = check_settings(loaded, today=TODAY)
    wrong = bad(findings)
    assert all(finding.remedy for finding in wrong)
    assert not any("canary" in str(finding) or SECRET in str(finding) for finding in findings)
    return [(finding.name, finding.status) for finding in wrong]


@pytest.mark.parametrize("which", ["", "_PREVIOUS"])
def test_the_secret_that_can_be_guessed_is_named(which: str) -> None:
    secrets = {"emblem_jwt_secret": SECRET, f"emblem_jwt_secret{which.lower()}": "a" * 32}
    findings = check_settings(loading.load(listen_address="127.0.0.1", **secrets), today=TODAY)
    assert [finding.what.partition(" ")[0] for finding in bad(findings)] == [f"EMBLEM_JWT_SECRET{which}"]


def test_good_settings_have_nothing_to_mend() -> None:
    assert found() == []
    assert found(**PRODUCTION) == []
    assert found(**PRODUCTION, listen_address="::") == []


@pytest.mark.parametrize(
    ("changed", "name", "status"),
    [
        ({"node_env": "prod"}, "node-env", FAILED),
        ({"node_env": "staging"}, "node-env", FAILED),
        ({"node_env": "x" * 100_000}, "node-env", FAILED),
        ({"emblem_dev_mode": "true"}, "dev-mode", WARNING),
        ({"emblem_jwt_secret": "your-secure-secret-here-32chars!"}, "signing-secret", FAILED),
        ({"emblem_jwt_secret": "canary" * 8}, "signing-secret", FAILED),
        ({"emblem_jwt_secret": f"{SECRET}\n"}, "signing-secret", FAILED),
        ({"emblem_jwt_secret_previous": "a" * 32}, "signing-secret", FAILED),
        ({"emblem_jwt_secret_previous": SECRET}, "signing-secret", WARNING),
        ({"emblem_jwt_secret_date": "2026-08-28"}, "secret-age", WARNING),
        ({"emblem_jwt_secret_date": "2026-11-29"}, "secret-age", FAILED),
        (PRODUCTION | {"emblem_jwt_secret_date": None}, "secret-age", WARNING),
        (PRODUCTION | {"audit_key": None}, "audit-key", WARNING),
        (PRODUCTION | {"log_level": "warning"}, "audit-heads", WARNING),
        (PRODUCTION | {"log_level": "error"}, "audit-heads", WARNING),
        ({"audit_key": "k" * 32}, "audit-key", FAILED),
        ({"token_encryption_key": "k" * 32}, "key-age", FAILED),
        ({"token_encryption_key": "32-char-key-for-aes-encryption!!"}, "key-age", FAILED),
        (KEY | {"token_encryption_key_date": "2026-08-28"}, "key-age", WARNING),
        (KEY | {"token_encryption_key_date": "2026-11-29"}, "key-age", FAILED),
        (PRODUCTION | KEY, "key-age", WARNING),
        ({"token_encryption_key_file": "/missing"}, "key-age", FAILED),
        ({"anthropic_api_key": "sk-ant-..."}, "model-key", FAILED),
        (PRODUCTION | {"anthropic_api_key": "canary"}, "model-key", WARNING),
        ({"listen_address": "::"}, "tls", WARNING),
        ({"anthropic_base_url": "http://proxy.example"}, "tls", WARNING),
        ({"anthropic_base_url": "http://localhost.example"}, "tls", WARNING),
        (PRODUCTION | {"rate_limit_requests": 0}, "limits", WARNING),
        (PRODUCTION | {"auth_failure_requests": 0}, "limits", WARNING),
        ({"rate_limit_window_seconds": 900_000}, "durations", WARNING),
        ({"turn_timeout_seconds": 600_000}, "durations", WARNING),
        ({"shutdown_grace_seconds": 86_401}, "durations", WARNING),
        ({"anthropic_stall_seconds": 86_401}, "durations", WARNING),
        ({"port": 50051}, "ports", FAILED),
        (PRODUCTION | {"database_path": "metamorph.db"}, "storage", WARNING),
        (PRODUCTION | {"sqlite_synchronous": "NORMAL"}, "storage", WARNING),
        (PRODUCTION | {"backup_interval_hours": 0}, "backups", WARNING),
        (PRODUCTION | {"backup_interval_hours": 49}, "backups", WARNING),
        (PRODUCTION | {"backup_retention_days": 0.01}, "backups", WARNING),
        ({"otel_exporter_otlp_headers": "key=canary"}, "telemetry", WARNING),
        ({"otel_exporter_otlp_endpoint": "http://collector:4317"}, "telemetry", WARNING),
        ({"otel_exporter_otlp_endpoint": "http://collector:4318/v1/traces"}, "telemetry", WARNING),
        ({"otel_exporter_otlp_endpoint": "http://collector:4318/v1/metrics/"}, "telemetry", WARNING),
        (
            {"otel_exporter_otlp_endpoint": "http://collector:4318", "otel_exporter_otlp_headers": "key=canary"},
            "telemetry",
            WARNING,
        ),
    ],
)
def test_what_cannot_be_meant_is_found(changed: dict[str, Any], name: str, status: FindingStatus) -> None:
    assert found(**changed) == [(name, status)]


@pytest.mark.parametrize(
    "changed",
    [
        {"node_env": "Production"} | {name: value for name, value in PRODUCTION.items() if name != "node_env"},
        {"node_env": "test"},
        {"emblem_jwt_secret_date": "2026-08-29"},
        {"emblem_jwt_secret_date": "2026-11-28"},
        KEY,
        PRODUCTION | KEY | {"token_encryption_key_date": "2026-08-29"},
        {"anthropic_base_url": "http://127.0.0.1:8000"},
        {"rate_limit_window_seconds": 86_400},
        {"port": 0, "grpc_port": 0},
        PRODUCTION | {"backup_interval_hours": 48},
        {"otel_exporter_otlp_endpoint": "http://collector:4318"},
        {"otel_exporter_otlp_endpoint": "https://otlp.example/otlp", "otel_exporter_otlp_headers": "key=canary"},
        {"otel_exporter_otlp_endpoint": "http://localhost:4318", "otel_exporter_otlp_headers": "key=canary"},
    ],
)
def test_what_may_be_meant_is_not_found(changed: dict[str, Any]) -> None:
    assert found(**changed) == []


def test_the_emblem_api_alone_is_worth_a_warning() -> None:
    loaded = loading.load(emblem_api_url="https://id.example", listen_address="127.0.0.1")
    assert [finding.name for finding in bad(check_settings(loaded, today=TODAY))] == ["signing-secret"]


def test_a_key_file_has_an_age_and_a_place_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, now=beginning(date(2026, 8, 29)))
    assert found(token_encryption_key_file=path) == []
    assert found(**PRODUCTION, token_encryption_key_file=path) == []
    beside = PRODUCTION | {"database_path": tmp_path / "metamorph.db", "token_encryption_key_file": path}
    assert found(**beside) == [("key-file", WARNING)]
    path.unlink()
    add_key(path, now=beginning(date(2026, 8, 28)))
    assert found(token_encryption_key_file=path) == [("key-age", WARNING)]
    path.chmod(0o644)
    assert found(token_encryption_key_file=path) == [("key-age", FAILED)]


def test_a_database_path_must_be_a_file(tmp_path: Path) -> None:
    assert found(database_path=tmp_path) == [("storage", FAILED)]
    assert found(database_path=tmp_path / "metamorph.db") == []


@pytest.mark.parametrize(
    ("mount", "changed", "named"),
    [
        ("", {}, []),
        ("/data", {}, []),
        ("/data/", {}, []),
        ("/", {}, []),
        ("/data", {"backup_dir": "/data/copies"}, []),
        ("/dat", {}, ["DATABASE_PATH"]),
        ("/mnt/volume", {}, ["DATABASE_PATH"]),
        ("/data", {"database_path": "/data/../srv/metamorph.db"}, ["DATABASE_PATH"]),
        ("/data", {"database_path": "data/metamorph.db"}, ["DATABASE_PATH"]),
        ("/data", {"backup_dir": "/backups"}, ["BACKUP_DIR"]),
        ("/srv", {"backup_dir": "/backups"}, ["DATABASE_PATH", "BACKUP_DIR"]),
    ],
)
def test_files_beside_the_volume_of_railway_are_named(
    monkeypatch: pytest.MonkeyPatch, mount: str, changed: dict[str, Any], named: list[str]
) -> None:
    monkeypatch.setenv("RAILWAY_VOLUME_MOUNT_PATH", mount)
    loaded = loading.load(**({"emblem_jwt_secret": SECRET, "database_path": "/data/metamorph.db"} | changed))
    wrong = [finding for finding in check_settings(loaded, today=TODAY) if finding.name == "volume"]
    failures = [finding for finding in wrong if finding.status is FAILED]
    assert [finding.remedy.split(", or set ")[1].split(" ")[0] for finding in failures] == named
    assert (len(wrong) > len(failures)) == (mount != "" and "DATABASE_PATH" not in named)
