"""The Railway configuration: railway.toml, and the graph that .railway/railway.py compiles to."""

import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from metamorphd import server
from metamorphd.backups import copies
from metamorphd.chat import engine
from metamorphd.edge.http import server as http_server
from metamorphd.settings.server import Settings
from metamorphd.telemetry import otlp

from tests.deploy.image import DRAINING_SECONDS, FINAL
from tests.support.paths import ROOT

CONFIG = ROOT / ".railway" / "railway.py"
TOML = ROOT / "railway.toml"
# After the grace period, as docs/operating.md says.
LAST_SECONDS = 9
LITESTREAM_CONFIG = ROOT / "deploy" / "litestream.yml"


def compiled() -> dict[str, Any]:
    """Returns the graph as the Railway CLI builds it: loads the file, calls `main` and writes its result as JSON."""
    spec = importlib.util.spec_from_file_location("railway_config", CONFIG)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph: dict[str, Any] = json.loads(json.dumps(module.main().to_graph()))
    return graph


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    """Returns the resources of the graph by address."""
    return {resource["address"]: resource for resource in compiled()["resources"]}


@pytest.fixture(scope="module")
def service(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return resources["service.metamorph"]


def descriptions() -> list[dict[str, Any]]:
    """Returns each file's build and deploy sections. railway.toml may be absent, as docs/railway.md describes."""
    (service,) = (resource for resource in compiled()["resources"] if resource["type"] == "service")
    described = [{"build": service["build"], "deploy": service["deploy"]}]
    return described + ([tomllib.loads(TOML.read_text())] if TOML.exists() else [])


def test_the_only_service_mounts_the_only_volume_at_data(
    resources: dict[str, dict[str, Any]], service: dict[str, Any]
) -> None:
    assert set(resources) == {"service.metamorph", "volume.metamorph-data"}
    (mount,) = service["volumeAttachments"].values()
    assert (mount["volume"], mount["mountPath"]) == ("volume.metamorph-data", "/data")
    assert "numReplicas" not in service["deploy"]


def test_the_database_is_on_the_volume(service: dict[str, Any]) -> None:
    assert service["variables"]["DATABASE_PATH"] == {"type": "literal", "value": "/data/metamorph.db"}


def test_every_variable_is_a_setting_with_a_valid_value(service: dict[str, Any]) -> None:
    literals = {name: value["value"] for name, value in service["variables"].items() if value["type"] == "literal"}
    assert {name.lower() for name in service["variables"]} <= set(Settings.model_fields)
    read = Settings(**{name.lower(): value for name, value in literals.items()})
    assert read.production
    assert not read.emblem_dev_mode


def test_the_entry_point_of_the_image_is_kept_and_its_settings_are_repeated(service: dict[str, Any]) -> None:
    literals = {name: value["value"] for name, value in service["variables"].items() if value["type"] == "literal"}
    # The image starts as root, to make the volume its user's: on Railway this needs no RAILWAY_RUN_UID.
    assert "RAILWAY_RUN_UID" not in service["variables"]
    environment = FINAL.environment()
    assert {name: literals[name] for name in literals if name in environment} == {
        name: environment[name] for name in ("NODE_ENV", "DATABASE_PATH")
    }
    assert "startCommand" not in service["deploy"]


def test_secrets_are_stored_by_railway_and_not_in_the_files(service: dict[str, Any]) -> None:
    secrets = [name for name in service["variables"] if name.endswith(("_KEY", "_SECRET", "_TOKEN"))]
    assert sorted(secrets) == ["ANTHROPIC_API_KEY", "EMBLEM_JWT_SECRET"]
    assert all(service["variables"][name] == {"type": "preserve"} for name in secrets)


def test_the_health_check_uses_the_port_that_is_served(service: dict[str, Any]) -> None:
    assert service["deploy"]["healthcheckPath"] == "/health"
    assert service["variables"]["PORT"]["value"] == str(Settings.model_fields["port"].default)


def test_no_port_is_public(service: dict[str, Any]) -> None:
    assert not service.get("networking")


def test_both_files_agree() -> None:
    described = descriptions()
    assert described == described[:1] * len(described)


def test_the_image_is_built_by_the_dockerfile() -> None:
    build = descriptions()[0]["build"]
    assert build["builder"] == "DOCKERFILE"
    assert Path(ROOT, build["dockerfilePath"]).is_file()


def test_there_is_time_to_drain_and_deployments_never_overlap() -> None:
    deploy = descriptions()[0]["deploy"]
    # Railway's parser rejects a number written as a string.
    assert all(type(deploy[name]) is int for name in ("drainingSeconds", "overlapSeconds", "healthcheckTimeout"))
    grace = Settings.model_fields["shutdown_grace_seconds"].default
    # Backups and their copies end during the drain.
    assert grace >= copies.STOP_SECONDS
    last = engine.LAST_COMMIT_SECONDS + server.LAST_SEND_SECONDS + otlp.FLUSH_SECONDS + http_server.LAST_ANSWER_SECONDS
    assert last <= LAST_SECONDS
    # The rest is for closing the database.
    assert deploy["drainingSeconds"] >= grace + LAST_SECONDS + 5
    # The same wherever the image is deployed: tests/deploy/test_container.py measures it.
    assert deploy["drainingSeconds"] == DRAINING_SECONDS
    # Of a server that replicates, too: all that Litestream waits for the server and then for the bucket.
    waited = yaml.safe_load(LITESTREAM_CONFIG.read_text())["shutdown-timeout"]
    assert grace + last < int(waited.removesuffix("s")) < DRAINING_SECONDS
    assert deploy["overlapSeconds"] == 0
    assert (deploy["restartPolicyType"], deploy["restartPolicyMaxRetries"]) == ("ON_FAILURE", 10)
