"""The process of a read-only server."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.litestream import Target, litestream, replicated_sessions
from tests.support.processes import SOURCES, environment_of, started

# Far below what Litestream waits for a bucket.
STOP_SECONDS = 10.0


@contextmanager
def read_only(directory: Path, target: Target) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Runs a read-only server. Yields its process and its log; it is killed after the block."""
    directory.mkdir()
    log = directory / "server.log"
    environment = {"READ_ONLY": "true", "PRIMARY_ADDRESS": "primary.internal:50051"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "metamorphd", "serve"],
            cwd=directory,
            env={**target.whole, "PYTHONPATH": SOURCES, **environment_of(directory), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def test_it_stops_at_once_while_its_first_copy_waits_for_a_bucket(tmp_path: Path) -> None:
    litestream()
    with socket.create_server(("127.0.0.1", 0)) as bucket:
        bucket.settimeout(60)
        endpoint = f"http://127.0.0.1:{bucket.getsockname()[1]}"
        target = Target(
            f"s3://bucket/replica?endpoint={endpoint}&region=us-east-1",
            tmp_path,
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        )
        with read_only(tmp_path / "reader", target) as (process, log):
            connection, _ = bucket.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=STOP_SECONDS) == 0, log.read_text()
            assert '"message":"stopped"' in log.read_text()


async def test_its_copies_are_for_its_user_only(tmp_path: Path, directory_target: Target) -> None:
    await replicated_sessions(tmp_path / "primary", directory_target, count=3)
    with read_only(tmp_path / "reader", directory_target) as (process, log):
        started(process, log)
        copies = list((tmp_path / "reader").glob("metamorph.db-replica*"))
        assert {copy.name: copy.stat().st_mode & 0o077 for copy in copies} == {copy.name: 0 for copy in copies}
        assert copies
