"""Containers of the image, which is built and run without an engine."""

import asyncio
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.container import Limits
from tests.deploy.image import (
    DRAINING_SECONDS,
    FINAL,
    NEEDED,
    USER,
    Container,
    Image,
    build,
    files,
    hardened,
    running,
    volume,
)
from tests.support.caller import calling
from tests.support.engines import ENGINES
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.proxy import CuttingProxy

# Its first test builds the image, and Litestream if nobody has yet.
pytestmark = pytest.mark.timeout(1000)
AS_ROOT = Limits()


def of_root(data: Path) -> Limits:
    return replace(AS_ROOT, volume=data)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Yields the image."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs root, to mount")
    # Other users cannot enter pytest's own directory.
    directory = Path(tempfile.mkdtemp(prefix="metamorph-image-"))
    directory.chmod(0o755)
    try:
        yield build(directory)
    finally:
        shutil.rmtree(directory)


def test_both_packages_are_installed_completely(image: Image) -> None:
    where = "import metamorph_client, metamorphd.store; print(metamorph_client.__file__, metamorphd.store.__file__)"
    result = image.run("python", "-c", where)
    assert result.returncode == 0, result.stderr
    assert all(Path(path).is_relative_to("/opt/metamorph") for path in result.stdout.split())
    installed = image.root.inside("/opt/metamorph")
    assert not list(installed.rglob("__editable__*"))
    assert all(list(installed.rglob(f"migrations/{engine.name}/*.sql")) for engine in ENGINES)


def test_what_builds_the_image_is_not_in_it(image: Image) -> None:
    assert image.run("python", "-c", "import hatchling").returncode == 1
    assert {path.name for path in image.root.inside("/opt").iterdir()} == {"metamorph"}


def test_the_lock_satisfies_the_requirements_of_the_packages(image: Image) -> None:
    # The pip of the base image looks at the server's own venv.
    result = image.run("/usr/local/bin/python", "-m", "pip", "--python", "/opt/metamorph/bin/python", "check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_installed_file_is_readable_by_any_user(image: Image) -> None:
    paths = [path for path in image.root.inside("/opt").rglob("*") if not path.is_symlink()]
    assert [path for path in paths if not path.stat().st_mode & stat.S_IROTH] == []
    assert len(paths) > 1000


def test_the_command_prints_its_help(image: Image) -> None:
    result = image.run("metamorph", "--help")
    assert result.returncode == 0, result.stderr
    assert "serve" in result.stdout


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_secret_is_reported_in_one_line(image: Image, missing: str) -> None:
    others = {name: value for name, value in NEEDED.items() if name != missing}
    result = image.run("metamorph", "serve", limits=Limits(user=USER), **others)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(rf"metamorph: {missing} is (not set|required in production); .+\n", result.stderr)


async def test_the_health_check_succeeds_only_while_the_server_answers(image: Image, tmp_path: Path) -> None:
    command = FINAL.all("HEALTHCHECK")[0].exec_form()
    async with running(image, hardened(volume(tmp_path / "data", owner=USER))) as container:
        port = str(container.http_port)
        assert (await asyncio.to_thread(image.run, *command, PORT=port)).returncode == 0
    assert (await asyncio.to_thread(image.run, *command, PORT=port)).returncode == 1


async def test_a_user_without_capabilities_writes_only_to_the_volume(image: Image, tmp_path: Path) -> None:
    data = volume(tmp_path / "data", owner=USER)
    before = set(files(image.root))
    async with running(image, hardened(data)) as container:
        status, body = await asyncio.to_thread(container.health)
        assert (status, body["status"]) == (200, "ok")
        assert {path.name for path in data.iterdir()} >= {"metamorph.db", "metamorph.db-wal"}
        found = container.status()
        assert set(found["Uid"].split()) == {str(USER)}
        assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        # Data is on the volume, and nothing warns that it is not.
        assert [line for line in container.warnings if line.get("check") == "volume"] == []
    assert container.process.returncode == 0
    assert set(files(image.root)) == before


async def test_the_volume_of_a_group_is_enough(image: Image, tmp_path: Path) -> None:
    # As fsGroup leaves it: root's, with the group of the user.
    data = volume(tmp_path / "data")
    os.chown(data, 0, USER)
    data.chmod(0o2775)
    async with running(image, hardened(data)) as container:
        assert (await asyncio.to_thread(container.health))[0] == 200


def owners(data: Path) -> dict[str, int]:
    return {str(path.relative_to(data)): path.lstat().st_uid for path in [data, *sorted(data.rglob("*"))]}


async def test_a_volume_that_is_mounted_as_root_is_served_by_another_user(image: Image, tmp_path: Path) -> None:
    data = volume(tmp_path / "data")
    (data / "lost+found").mkdir(mode=0o700)
    # As `railway ssh` leaves it, and deeper than anything of the server's.
    (data / "backups" / "deep").mkdir(parents=True)
    (data / "backups" / "deep" / "deeper").touch()
    (data / "backups" / "metamorph-20260101_000000.db").touch()
    (data / "link").symlink_to("/etc")
    async with running(image, replace(AS_ROOT, volume=data)) as container:
        found = container.status()
        assert (set(found["Uid"].split()), set(found["Gid"].split())) == ({str(USER)}, {str(USER)})
        assert (found["Groups"], int(found["CapEff"], 16), found["NoNewPrivs"]) == ("", 0, "1")
        assert (await asyncio.to_thread(container.health))[0] == 200
        roots = [name for name, owner in owners(data).items() if owner == 0]
        assert roots == ["backups/deep/deeper", "lost+found"]
        assert image.root.inside("/etc").stat().st_uid == 0
    assert container.process.returncode == 0


async def test_a_database_that_root_has_restored_is_served_again(image: Image, tmp_path: Path) -> None:
    data = volume(tmp_path / "data")
    limits = replace(AS_ROOT, volume=data)
    for _ in range(2):
        async with running(image, limits) as container:
            assert (await asyncio.to_thread(container.health))[0] == 200
        assert set(owners(data).values()) == {USER}
        for name in owners(data):
            os.chown(data / name, 0, 0)


@pytest.mark.parametrize("owner", [0, USER])
def test_root_without_capabilities_is_refused_with_the_cure(image: Image, tmp_path: Path, owner: int) -> None:
    limits = Limits(no_capabilities=True, read_only=True, volume=volume(tmp_path / "data", owner=owner))
    result = image.run("metamorph", "serve", limits=limits, **NEEDED)
    assert result.returncode == 1
    refusal = r"metamorph: started as root, but .+; start the container as user 10001, .+\n"
    assert re.fullmatch(rf"(.*\n)*{refusal}", result.stderr)
    assert list((tmp_path / "data").iterdir()) == []


async def test_a_container_without_a_volume_says_that_its_data_will_be_gone(image: Image) -> None:
    mark = image.root.inside("/.dockerenv")
    mark.touch()
    try:
        async with running(image, AS_ROOT) as container:
            (line,) = [line for line in container.warnings if line.get("check") == "volume"]
    finally:
        mark.unlink()
    assert "/data is on no mount of its own" in line["message"]


@pytest.mark.parametrize("limits", [hardened, of_root], ids=["hardened", "root"])
async def test_a_container_replicates_and_another_one_reads(
    image: Image, tmp_path: Path, limits: Callable[[Path], Limits]
) -> None:
    data = limits(volume(tmp_path / "data", owner=USER))
    replica = {"REPLICA_URL": "file:///data/replica"}
    async with running(image, data, "deploy/replicate", **replica) as container:
        assert container.first.name() == "litestream"
        found = container.status()
        assert (set(found["Uid"].split()), int(found["CapEff"], 16)) == ({str(USER)}, 0)
        assert (await asyncio.to_thread(container.health))[0] == 200
        async with calling(f"127.0.0.1:{container.grpc_port}") as caller:
            await caller.create_session(title="Replicated")
    assert container.process.returncode == 0
    following = {"READ_ONLY": "true", "PRIMARY_ADDRESS": "primary:50051", "DATABASE_PATH": "/data/reader.db"}
    async with (
        running(image, data, **replica, **following) as container,
        calling(f"127.0.0.1:{container.grpc_port}") as caller,
    ):
        titles = [each.title for each in await caller.sessions()]
    assert (titles, container.process.returncode) == (["Replicated"], 0)


async def test_a_container_that_waits_for_its_replica_stops_at_once(image: Image, tmp_path: Path) -> None:
    limits = hardened(volume(tmp_path / "data", owner=USER))
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    async with CuttingProxy(0) as bucket:
        bucket.silent = True
        url = f"s3://bucket/prefix?endpoint=http://{bucket.target}&region=auto"
        process = await asyncio.create_subprocess_exec(
            *image.command("deploy/replicate", limits=limits),
            env=image.environment(**NEEDED, **keys, REPLICA_URL=url),
        )
        try:
            await asyncio.wait_for(bucket.connected.wait(), 60)
            Container(process, []).stop()
            assert await asyncio.wait_for(process.wait(), DRAINING_SECONDS / 5) != 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_turn_that_runs_at_a_stop_is_finished_and_the_server_ends_in_time(image: Image, tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with FakeMessagesApi(Reply(("one ", "two"), hold=hold)) as api:
        limits = hardened(volume(tmp_path / "data", owner=USER))
        async with running(image, limits, ANTHROPIC_BASE_URL=api.base_url) as container:
            async with calling(f"127.0.0.1:{container.grpc_port}") as caller:
                session = await caller.create_session(title="Stopped")
                events = caller.start(session.session_id)
                await events.next()
                began = time.monotonic()
                container.stop()
                await asyncio.sleep(1)
                assert (await asyncio.to_thread(container.health))[0] == 503
                hold.set()
                last = (await events.rest())[-1]
            await asyncio.wait_for(container.process.wait(), DRAINING_SECONDS)
    assert last.WhichOneof("event") == "turn_finished"
    assert (container.process.returncode, time.monotonic() - began < DRAINING_SECONDS) == (0, True)
