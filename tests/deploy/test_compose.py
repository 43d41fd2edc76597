"""deploy/compose.yaml, and what replicates it: Compose accepts them, and they agree with the image and the settings."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from metamorphd.checks.memory import Memory, memory
from metamorphd.models.finding import FindingStatus
from metamorphd.settings.server import Settings

from tests.deploy.image import DRAINING_SECONDS, FINAL, USER
from tests.support.paths import ROOT
from tests.support.programs import require

FILE = ROOT / "deploy" / "compose.yaml"
REPLICATING = ROOT / "deploy" / "compose.replicate.yaml"
LOADER = "compose-spec"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    (service,) = yaml.safe_load(FILE.read_text())["services"].values()
    return dict(service)


@pytest.mark.parametrize(("wrong", "accepted"), [("read_only:", True), ("read_onli:", False)])
def test_compose_accepts_it_and_would_not_accept_a_misspelt_key(wrong: str, accepted: bool) -> None:
    loaded = load("/dev/stdin", given=FILE.read_text().replace("read_only:", wrong))
    assert (loaded.returncode == 0) == accepted, loaded.stderr


def load(*files: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Loads files as Compose does, each over the ones before. The result is printed."""
    loader = require(LOADER, hint="Go, then `make tools`")
    command = [loader, "-no-interpolation", *files]
    return subprocess.run(command, input=given, cwd=FILE.parent, text=True, capture_output=True, check=False)


def test_the_second_file_only_makes_it_replicate(service: dict[str, Any]) -> None:
    (change,) = yaml.safe_load(REPLICATING.read_text())["services"].values()
    assert set(change) == {"command", "environment"}
    assert change["command"] == ["deploy/replicate"]
    assert ROOT.joinpath(*change["command"]).exists()
    required = {name: re.match(r"\$\{(\w+):\?", value) for name, value in change["environment"].items()}
    assert {name: match and match[1] for name, match in required.items()} == {name: name for name in required}
    assert set(required) == {"REPLICA_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    loaded = load(str(FILE), str(REPLICATING))
    assert loaded.returncode == 0, loaded.stderr
    (together,) = yaml.safe_load(loaded.stdout)["services"].values()
    assert together["command"] == change["command"]
    environment = service["environment"] | change["environment"]
    assert sorted(together["environment"]) == sorted(f"{name}={value}" for name, value in environment.items())
    assert together["stop_grace_period"] == service["stop_grace_period"]


def test_it_builds_this_tree(service: dict[str, Any]) -> None:
    assert (FILE.parent / service["build"] / "Dockerfile").resolve() == ROOT / "Dockerfile"


def test_every_variable_is_a_setting_and_no_secret_is_in_the_file(service: dict[str, Any]) -> None:
    assert {name.lower() for name in service["environment"]} <= set(Settings.model_fields)
    stated = {name: re.fullmatch(r"\$\{(\w+):([-?]).*\}", value) for name, value in service["environment"].items()}
    assert {name: match and match[1] for name, match in stated.items()} == {name: name for name in stated}
    required = {name for name, match in stated.items() if match and match[2] == "?"}
    assert required == {"ANTHROPIC_API_KEY", "EMBLEM_JWT_SECRET"}


def test_only_this_machine_reaches_its_ports(service: dict[str, Any]) -> None:
    ports = [Settings.model_fields[name].default for name in ("grpc_port", "port")]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]


def test_the_database_is_on_the_volume(service: dict[str, Any]) -> None:
    (name,) = yaml.safe_load(FILE.read_text())["volumes"]
    assert service["volumes"] == [f"{name}:/data"]
    assert FINAL.environment()["DATABASE_PATH"].startswith("/data/")


def test_it_has_no_right_that_the_container_tests_do_without(service: dict[str, Any]) -> None:
    assert service["user"] == f"{USER}:{USER}"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]  # noqa: S108
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)


def test_there_is_time_to_drain(service: dict[str, Any]) -> None:
    assert service["stop_grace_period"] == f"{DRAINING_SECONDS}s"


def test_its_memory_is_enough(service: dict[str, Any]) -> None:
    assert service["mem_limit"] == "1g"
    needed = int(Settings.model_fields["max_bytes_in_flight"].default * 1.5)
    assert [found.status for found in memory(Memory(limit=1 << 30, used=0, kills=0), needed=needed)] == [
        FindingStatus.OK
    ]


def test_the_health_check_is_that_of_the_image(service: dict[str, Any]) -> None:
    assert "test" not in service["healthcheck"]
    assert FINAL.all("HEALTHCHECK")
