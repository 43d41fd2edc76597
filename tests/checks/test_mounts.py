"""Whether data stays when a server is deployed again."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from metamorphd.checks import mounts
from metamorphd.checks.mounts import Mount, mount_of, read_mounts, volume
from metamorphd.models.finding import FindingStatus

from tests.support.processes import serving_process

TEXT = r"""
27 1 254:0 / / rw,relatime shared:1 - overlay overlay rw
28 27 254:1 / /data rw,relatime - ext4 /dev/vdb rw
29 27 254:2 / /data/with\040space rw - xfs /dev/vdc rw
30 27 254:3 / /database rw - tmpfs tmpfs rw
31 27 254:4 / /database rw - ext4 /dev/vdd rw
no mount
"""
UNSHARED = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"]


@pytest.mark.parametrize(
    ("directory", "mount"),
    [
        ("/app/data", Mount("/", "overlay")),
        ("/data", Mount("/data", "ext4")),
        ("/data/deep/er", Mount("/data", "ext4")),
        ("/data2", Mount("/", "overlay")),
        ("/data/with space/x", Mount("/data/with space", "xfs")),
        ("/database", Mount("/database", "ext4")),
    ],
)
def test_a_directory_is_on_the_innermost_mount(directory: str, mount: Mount) -> None:
    assert mount_of(Path(directory), read_mounts(TEXT)) == mount


def test_what_is_no_list_of_mounts_says_nothing() -> None:
    assert read_mounts("") == []
    assert read_mounts("\n - \n1 2 3 4 - ext4\n1 1 1:1 / /data rw - \n") == []
    assert mount_of(Path("/data"), []) is None


def status(directory: str, *, contained: bool) -> FindingStatus | None:
    found = volume(Path(directory), contained=contained)
    assert found is None or found.status is FindingStatus.OK or "DATABASE_PATH" in found.remedy
    return None if found is None else found.status


def test_a_container_without_a_volume_is_found_and_a_machine_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "MOUNTS", file)
    monkeypatch.setattr(mounts, "MARKS_OF_CONTAINERS", (tmp_path / "mark",))
    assert status("/srv", contained=True) is None
    file.write_text("1 1 1:1 / / rw - ext4 /dev/vda rw\n2 1 1:2 / /data rw - ext4 /dev/vdb rw\n")
    assert status("/srv", contained=False) is FindingStatus.OK
    assert status("/srv", contained=True) is FindingStatus.WARNING
    assert status("/data/x", contained=True) is FindingStatus.OK
    (tmp_path / "mark").touch()
    assert status("/srv", contained=False) is FindingStatus.WARNING
    file.write_text(TEXT)
    (tmp_path / "mark").unlink()
    assert status("/srv", contained=False) is FindingStatus.WARNING


def test_memory_is_no_volume() -> None:
    if not Path("/dev/shm").is_mount():  # noqa: S108
        pytest.skip("needs /dev/shm")
    assert status("/dev/shm/metamorph", contained=False) is FindingStatus.FAILED  # noqa: S108


def warnings(log: Path) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["level"] == "warning" and line.get("check") == "volume"]


def test_a_volume_that_was_not_mounted_is_in_the_log_with_its_cure(tmp_path: Path) -> None:
    with serving_process(tmp_path, KUBERNETES_SERVICE_HOST="10.0.0.1") as server:
        (line,) = warnings(server.log)
    assert "the next deployment" in line["message"]
    assert "DATABASE_PATH" in line["remedy"]


def test_a_volume_that_is_mounted_is_not(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    for name in ("disk", "data"):
        (tmp_path / name).mkdir()
    wrapper = [*UNSHARED, str(tmp_path / "disk"), str(tmp_path / "data")]
    database = str(tmp_path / "data" / "metamorph.db")
    with serving_process(
        tmp_path, wrapper=wrapper, DATABASE_PATH=database, KUBERNETES_SERVICE_HOST="10.0.0.1"
    ) as server:
        assert warnings(server.log) == []
    assert (tmp_path / "disk" / "metamorph.db").exists()


def test_the_volume_of_a_link_is_that_of_the_file(tmp_path: Path) -> None:
    if not Path("/dev/shm").is_mount():  # noqa: S108
        pytest.skip("needs /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "metamorph.db").symlink_to(Path(elsewhere) / "metamorph.db")
        with serving_process(tmp_path) as server:
            (line,) = warnings(server.log)
        assert "is in memory" in line["message"]


def test_a_database_beside_the_volume_of_railway_is_in_the_log_with_its_cure(tmp_path: Path) -> None:
    elsewhere = {"RAILWAY_ENVIRONMENT": "production", "RAILWAY_VOLUME_MOUNT_PATH": "/data"}
    with serving_process(tmp_path, **elsewhere) as server:
        found = warnings(server.log)
    assert [line["remedy"].partition(" ")[0] for line in found] == ["mount", "attach"]
    assert f"DATABASE_PATH ({tmp_path / 'metamorph.db'}) is not on it" in found[0]["message"]
