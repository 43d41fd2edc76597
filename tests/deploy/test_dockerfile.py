"""The Dockerfile and the locks that it installs from, as they are written."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

from metamorphd.settings.server import Settings

from tests.deploy.dockerfile import stages
from tests.support.paths import ROOT
from tests.support.processes import ALLOCATOR

BASE, LITESTREAM, BUILD, FINAL = stages(ROOT / "Dockerfile")
ALL = [*BASE.instructions, *LITESTREAM.instructions, *BUILD.instructions, *FINAL.instructions]
ENTRY = ROOT / "deploy" / "unprivileged"


def test_every_stage_uses_a_base_image_by_its_digest() -> None:
    assert re.fullmatch(r"python:3\.11-slim@sha256:[0-9a-f]{64}", BASE.image)
    assert (BASE.name, BASE.instructions) == ("base", [])
    assert (BUILD.image, FINAL.image) == ("base", "base")
    assert re.fullmatch(r"golang:1\.26-trixie@sha256:[0-9a-f]{64}", LITESTREAM.image)


def test_litestream_is_built_as_by_make_which_is_what_the_tests_of_replicas_run() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (version,) = re.findall(r"^LITESTREAM_VERSION := (v\S+)$", makefile, re.MULTILINE)
    (made,) = re.findall(r"^\t@GOBIN=\S+ (CGO_ENABLED=0 go install .*/litestream@.*)$", makefile, re.MULTILINE)
    (install,) = LITESTREAM.instructions
    assert (install.name, install.text) == ("RUN", made.replace("$(LITESTREAM_VERSION)", version))
    # The version names what is built, by Go's checksum database: nothing turns that off.
    assert not re.search(r"GOFLAGS|GONOSUM|GOSUMDB|GOPRIVATE|GOINSECURE", (ROOT / "Dockerfile").read_text())


def test_the_base_image_is_pinned_anew_by_one_command(tmp_path: Path) -> None:
    for name in ("Dockerfile", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    docker = tmp_path / "docker"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    before = (ROOT / "Dockerfile").read_text()
    after = before.replace(BASE.image[-64:], "7" * 64).replace(LITESTREAM.image[-64:], "8" * 64)
    for digests, expected in ({"python": "", "golang": ""}, before), ({"python": "7" * 64, "golang": "8" * 64}, after):
        cases = " ".join(f"{name}:*) echo sha256:{digest};;" for name, digest in digests.items())
        docker.write_text(f"#!/bin/sh\nfor image; do :; done\ncase $image in {cases} esac\n")
        docker.chmod(0o755)
        made = subprocess.run(["make", "base"], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert (made.returncode == 0) == (expected == after)
        assert (tmp_path / "Dockerfile").read_text() == expected


def test_every_copied_path_exists_in_the_build_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for instruction in [*BUILD.all("COPY"), *FINAL.all("COPY")]
        if "--from" not in instruction.text
        for source in instruction.words()[:-1]
    }
    assert copied == kept
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [instruction.text for instruction in FINAL.all("COPY")] == [
        "deploy/unprivileged /usr/local/bin/",
        "--from=litestream /go/bin/litestream /usr/local/bin/",
        "--from=build /opt/metamorph /opt/metamorph",
        "deploy/replicate deploy/litestream.yml deploy/",
    ]


def test_the_server_is_what_runs_in_the_end_and_receives_signals() -> None:
    assert [instruction.exec_form() for instruction in FINAL.all("CMD")] == [["metamorph", "serve"]]
    assert [instruction.exec_form() for instruction in FINAL.all("ENTRYPOINT")] == [[ENTRY.name]]
    assert ENTRY.stat().st_mode & stat.S_IXOTH
    assert [instruction.text for instruction in FINAL.all("STOPSIGNAL")] == ["SIGTERM"]


def test_railway_can_mount_its_volume() -> None:
    # With USER, a volume that is mounted as root could not be written.
    assert {instruction.name for instruction in ALL}.isdisjoint({"VOLUME", "USER"})
    assert FINAL.environment()["DATABASE_PATH"] == "/data/metamorph.db"
    assert "${RAILWAY_VOLUME_MOUNT_PATH:-/data}" in ENTRY.read_text()


def test_the_entry_point_and_the_image_mean_the_same_user() -> None:
    (made,) = [instruction.text for instruction in FINAL.all("RUN") if "useradd" in instruction.text]
    (user,) = re.findall(r"^user=(\d+)$", ENTRY.read_text(), re.MULTILINE)
    assert re.findall(r"--[ug]id (\d+)", made) == [user, user]


def test_the_image_runs_in_production_mode_on_the_default_ports() -> None:
    ports = [Settings.model_fields[name].default for name in ("port", "grpc_port")]
    assert [int(port) for port in FINAL.all("EXPOSE")[0].words()] == ports
    assert FINAL.environment()["NODE_ENV"] == "production"


def test_memory_is_measured_with_the_allocator_of_the_image() -> None:
    assert FINAL.environment().items() >= ALLOCATOR.items()


def test_no_secret_is_built_in() -> None:
    names = {name for stage in (BUILD, FINAL) for name in stage.environment()}
    assert not [name for name in names if re.search("KEY|SECRET|TOKEN|PASSWORD", name)]
    given = {instruction.text.partition("=")[0] for instruction in ALL if instruction.name == "ARG"}
    assert given == {"REVISION", "RAILWAY_GIT_COMMIT_SHA"}


def test_the_labels_say_what_the_image_is_and_which_revision() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in FINAL.labels().items()}
    assert labels == {
        "title": "metamorph",
        "description": project["description"],
        "version": project["version"],
        "revision": "$REVISION",
        "base.name": f"docker.io/library/{BASE.image.partition('@')[0]}",
    }


def locked(name: str) -> dict[str, str]:
    """Returns each package of a lock with its version, markers and hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()):
        package, _, rest = entry.partition("==")
        assert "--hash=sha256:" in rest, f"{package} has no hash"
        found[package] = rest
    return found


def test_the_image_has_the_tested_versions_and_no_development_tools() -> None:
    runtime, development = locked("requirements.runtime.lock"), locked("requirements.lock")
    versions = {name: rest.split()[0] for name, rest in runtime.items()}
    assert versions == {name: development[name].split()[0] for name in runtime}
    assert {name: set(re.findall("sha256:[0-9a-f]{64}", rest)) for name, rest in runtime.items()} == {
        name: set(re.findall("sha256:[0-9a-f]{64}", development[name])) for name in runtime
    }
    assert set(runtime).isdisjoint({"pytest", "ruff", "mypy", "grpcio-tools", "railway-sdk"})
    assert "grpcio" in runtime


def test_what_builds_the_packages_is_locked_too() -> None:
    versions = {name: rest.split()[0] for name, rest in locked("requirements.build.lock").items()}
    required = [
        tomllib.loads((ROOT / directory / "pyproject.toml").read_text())["build-system"]["requires"]
        for directory in ("", "clients/python")
    ]
    assert required == [[f"hatchling=={versions['hatchling']}"]] * 2
    assert "uv" in versions


def test_the_image_and_a_checkout_install_only_what_a_lock_names() -> None:
    steps = [instruction.text for instruction in BUILD.all("RUN")]
    install = (ROOT / "scripts" / "install").read_text().replace("\\\n", " ")
    fetching = re.findall(r"\bpip (?:install|sync|wheel)\b[^&\n]*", "\n".join([*steps, install]))
    assert len(fetching) == 7
    fetched = [command for command in fetching if not re.search(r"--no-index|--offline|--build-constraints", command)]
    assert [command for command in fetched if "--require-hashes" not in command] == []
    unwheeled = [command for command in fetched if command not in install and "--only-binary :all:" not in command]
    assert unwheeled == []
    assert "--no-build-isolation" in steps[-1]
