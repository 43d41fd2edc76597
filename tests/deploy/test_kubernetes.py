"""deploy/kubernetes.yaml: its API accepts it, and it agrees with the image, the settings and the server.

deploy/kubernetes.replicate.yaml is a patch of it.
"""

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2
from metamorphd.checks.memory import Memory, memory
from metamorphd.models.finding import FindingStatus
from metamorphd.settings.server import Settings

from tests.deploy.image import DRAINING_SECONDS, FINAL, USER
from tests.support.paths import ROOT
from tests.support.serving import serving

SERVICE, SET = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
REPLICATING = yaml.safe_load((ROOT / "deploy" / "kubernetes.replicate.yaml").read_text())
POD: dict[str, Any] = SET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PROBES = {kind: CONTAINER[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


def quantity(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_the_api_accepts_every_object_and_its_fields(version: str) -> None:
    for described in (SERVICE, SET):
        kubernetes_validate.validate(described, version, strict=True)


def test_the_api_would_not_accept_a_misspelt_field() -> None:
    wrong = {**SET, "spec": {**SET["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_the_service_finds_the_server() -> None:
    labels = SET["spec"]["template"]["metadata"]["labels"]
    assert labels == SERVICE["spec"]["selector"] == SET["spec"]["selector"]["matchLabels"]
    assert SET["spec"]["serviceName"] == SERVICE["metadata"]["name"]
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {
        name: Settings.model_fields[field].default for name, field in (("grpc", "grpc_port"), ("http", "port"))
    }
    assert {port["targetPort"]: port["port"] for port in SERVICE["spec"]["ports"]} == ports


def test_one_server_has_the_volume_with_the_database() -> None:
    assert SET["spec"]["replicas"] == 1
    (claim,) = SET["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    (temporary,) = POD["volumes"]
    assert mounts == {"/data": claim["metadata"]["name"], "/tmp": temporary["name"]}  # noqa: S108
    assert FINAL.environment()["DATABASE_PATH"].startswith("/data/")
    assert set(SET["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}


def test_every_variable_is_a_setting_and_comes_from_the_secret() -> None:
    assert {variable["name"].lower() for variable in CONTAINER["env"]} <= set(Settings.model_fields)
    references = {variable["name"]: variable["valueFrom"]["secretKeyRef"]["key"] for variable in CONTAINER["env"]}
    assert references == {name: name for name in ("ANTHROPIC_API_KEY", "EMBLEM_JWT_SECRET")}


def test_it_has_no_right_that_the_container_tests_do_without() -> None:
    pod, own = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"]
    assert {pod[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {USER}
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False


def patched() -> dict[str, Any]:
    """Returns the set after the patch: lists of named objects are merged by name, all else is replaced."""
    whole = copy.deepcopy(SET)
    (change,) = REPLICATING["spec"]["template"]["spec"]["containers"]
    (container,) = whole["spec"]["template"]["spec"]["containers"]
    assert change["name"] == container["name"]
    container |= change | {"env": container["env"] + change["env"]}
    return dict(whole)


def test_the_patch_only_makes_it_replicate() -> None:
    kubernetes_validate.validate(patched(), "1.37", strict=True)
    (change,) = REPLICATING["spec"]["template"]["spec"]["containers"]
    whole = {"spec": {"template": {"spec": {"containers": [change]}}}}
    assert whole == REPLICATING
    assert set(change) == {"name", "args", "env"}
    # `args` is the image's command, whose entry point stays. Applied again, kubernetes.yaml undoes nothing of it.
    assert change["args"] == ["deploy/replicate"]
    assert ROOT.joinpath(*change["args"]).exists()
    assert not {"args", "command"} & set(CONTAINER)
    references = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in change["env"]}
    secret = CONTAINER["env"][0]["valueFrom"]["secretKeyRef"]["name"]
    assert references == {name: {"name": secret, "key": name} for name in references}
    assert set(references) == {"REPLICA_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert not set(references) & {variable["name"] for variable in CONTAINER["env"]}


def test_there_is_time_to_drain() -> None:
    assert POD["terminationGracePeriodSeconds"] == DRAINING_SECONDS


def test_its_memory_is_enough() -> None:
    limit = quantity(CONTAINER["resources"]["limits"]["memory"])
    needed = int(Settings.model_fields["max_bytes_in_flight"].default * 1.5)
    assert [found.status for found in memory(Memory(limit=limit, used=0, kills=0), needed=needed)] == [FindingStatus.OK]
    assert quantity(CONTAINER["resources"]["requests"]["memory"]) < limit


async def test_the_server_answers_every_probe(tmp_path: Path) -> None:
    port = Settings.model_fields["grpc_port"].default
    assert {probe["grpc"]["port"] for probe in PROBES.values()} == {port}
    async with serving(tmp_path) as server:
        caller = server.caller("")
        for probe in PROBES.values():
            request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
            answer = await caller.health.Check(request, timeout=probe["timeoutSeconds"] * 6)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
