"""Whether a server has enough memory, and what is said of one that had not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from metamorphd.checks import memory as module
from metamorphd.checks.memory import MIB, Memory, memory, read_memory
from metamorphd.models.finding import FindingStatus

from tests.support.processes import serving_process

NEEDED = 96 * MIB


def found(**values: int) -> list[FindingStatus]:
    findings = list(memory(Memory(**values), needed=NEEDED))
    assert all(bool(finding.remedy) == (finding.status is not FindingStatus.OK) for finding in findings)
    return [finding.status for finding in findings]


def test_too_little_memory_is_found() -> None:
    assert found() == []
    assert found(limit=352 * MIB, used=300 * MIB) == [FindingStatus.OK]
    assert found(limit=352 * MIB - 1, used=300 * MIB) == [FindingStatus.WARNING]
    assert found(limit=1000 * MIB, used=901 * MIB) == [FindingStatus.WARNING]
    assert found(limit=1000 * MIB, used=900 * MIB, kills=1) == [FindingStatus.FAILED]


def groups(root: Path, monkeypatch: pytest.MonkeyPatch, own: str, **files: str) -> Memory:
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "own").write_text(own)
    monkeypatch.setattr(module, "GROUPS", root)
    monkeypatch.setattr(module, "OWN_GROUPS", root / "own")
    return read_memory()


def test_the_lowest_limit_around_a_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert groups(
        tmp_path,
        monkeypatch,
        "0::/pod/server\n",
        cgroup_DOT_controllers="memory",
        pod__memory_DOT_max="1000\n",
        pod__memory_DOT_current="900\n",
        pod__memory_DOT_stat="anon 1\ninactive_file 200\nactive_file 7\n",
        pod__memory_DOT_events="low 0\noom 4\noom_kill 3\noom_group_kill 9\n",
        pod__server__memory_DOT_max="max\n",
        pod__server__memory_DOT_current="800\n",
    ) == Memory(1000, 700, 3)


@pytest.mark.parametrize(("outer", "inner"), [("1000", "2000"), ("2000", "1000")])
def test_of_two_limits_the_lower_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outer: str, inner: str
) -> None:
    found = groups(
        tmp_path,
        monkeypatch,
        "0::/pod/server\n",
        cgroup_DOT_controllers="memory",
        pod__memory_DOT_max=outer,
        pod__server__memory_DOT_max=inner,
    )
    assert found.limit == 1000


def test_the_first_version_of_groups_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert groups(
        tmp_path,
        monkeypatch,
        "9:name=systemd:/\n4:cpu,memory:/outside/of/the/container\n",
        memory__memory_DOT_limit_in_bytes="1000\n",
        memory__memory_DOT_usage_in_bytes="900\n",
        memory__memory_DOT_stat="inactive_file 1\ntotal_inactive_file 300\n",
        memory__memory_DOT_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    ) == Memory(1000, 600, 2)


@pytest.mark.parametrize("own", ["", "nonsense", "4:memory", "4:memory:/none", "4:memory:/../../..", "0::/x"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    assert groups(tmp_path, monkeypatch, own, memory__memory_DOT_limit_in_bytes="9223372036854771712\n") == Memory()


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Yields a control group of this machine with 300 MiB."""
    line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), "")
    group = Path("/sys/fs/cgroup/memory") / line.partition(":memory:")[2].lstrip("/") / f"metamorph-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(300 * MIB))
    except OSError:
        pytest.skip("needs root and control groups of version 1")
    yield group
    for _ in range(50):
        with contextlib.suppress(OSError):
            group.rmdir()
            break
        time.sleep(0.1)


def test_a_server_that_ran_out_of_memory_says_so_when_it_is_started_again(tmp_path: Path, small_group: Path) -> None:
    within = ["sh", "-c", f'echo $$ > {small_group}/cgroup.procs && exec "$@"', "sh"]
    with serving_process(tmp_path, wrapper=within) as server:
        # Of the processes in the group, the kernel is to kill this one.
        Path(f"/proc/{server.process.pid}/oom_score_adj").write_text("1000")
        hungry = [*within, sys.executable, "-c", f"held = bytearray({280 * MIB})\ninput()"]
        with subprocess.Popen(hungry, stdin=subprocess.PIPE) as other:
            assert server.process.wait(30) == -signal.SIGKILL
            other.kill()
    with serving_process(tmp_path, wrapper=within) as server:
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (end,) = [line for line in lines if line.get("check") == "last-end"]
    assert "exit code 137" in end["remedy"]
    (killed,) = [line for line in lines if line.get("check") == "memory" and "has killed" in line["message"]]
    assert "more memory" in killed["remedy"]


def test_a_server_that_was_stopped_says_nothing(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        server.process.terminate()
        server.process.wait(20)
    with serving_process(tmp_path) as server:
        assert "last-end" not in server.log.read_text()
