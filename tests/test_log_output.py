"""Log lines that cannot be written: dropped and counted, while calls continue."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.log_output import WAITING_BYTES, LogOutput

from tests.support.caller import calling
from tests.support.ports import free_port
from tests.support.processes import environment_of
from tests.support.tokens import mint

LINE = b"x" * 1023 + b"\n"
# Their lines do not fit into a pipe, which holds 64 KiB.
CALLS = 1_000


def wait_for_drops(output: LogOutput) -> None:
    deadline = time.monotonic() + 10
    while not output.dropped and time.monotonic() < deadline:
        time.sleep(0.01)
    assert output.dropped


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_for_a_pipe_that_nobody_reads_are_dropped_whole_and_the_rest_arrives(blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    output = LogOutput(writer)
    lines = 2 * WAITING_BYTES // len(LINE)
    for _ in range(lines):
        output.write(LINE)
    assert 0 < output.dropped < lines
    expected = (lines - output.dropped) * len(LINE)
    received = b""
    while len(received) < expected:
        received += os.read(reader, 1 << 20)
    output.close()
    output.write(LINE)
    assert received + os.read(reader, 1 << 20) == LINE * (lines - output.dropped + 1)


def test_lines_for_a_closed_pipe_are_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = LogOutput(writer)
    output.write(LINE * 3)
    output.close()
    assert output.dropped == 3


def test_lines_for_a_full_disk_are_dropped() -> None:
    output = LogOutput(os.open("/dev/full", os.O_WRONLY))
    output.write(LINE * 3)
    output.close()
    assert output.dropped == 3


def test_a_line_that_was_cut_in_the_middle_does_not_spoil_the_next(tmp_path: Path) -> None:
    # A limit on the size of files fails in the middle of a write, as a full disk does.
    script = f"""
import resource, signal
from metamorphd.log_output import STANDARD_OUTPUT as output
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
output.write({LINE!r}); output.write({LINE!r}); output.close()
assert output.dropped == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
output.write({LINE!r}); output.close()
"""
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", script], stdout=log, check=True)
    assert [len(line) for line in (tmp_path / "log").read_bytes().splitlines()] == [1023, 476, 1023]


@contextmanager
def unread() -> Iterator[int]:
    """Yields a pipe that is open and that nobody reads."""
    reader, writer = os.pipe()
    yield writer
    os.close(reader)
    os.close(writer)


@contextmanager
def hung_up() -> Iterator[int]:
    """Yields a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(("kind", "drops"), [(unread, False), (hung_up, True)])
async def test_a_server_whose_output_cannot_be_written_answers_every_call_and_drains(
    tmp_path: Path, kind: Callable[[], AbstractContextManager[int]], drops: bool
) -> None:
    ports = {"GRPC_PORT": str(free_port()), "PORT": str(free_port())}
    with kind() as pipe:
        process = subprocess.Popen(  # noqa: ASYNC220, which only blocks for the start of a process
            [sys.executable, "-m", "metamorphd", "serve"],
            env={**os.environ, **environment_of(tmp_path), **ports}, cwd=tmp_path, stdout=pipe, stderr=pipe,
        )  # fmt: skip
        try:
            health = f"http://127.0.0.1:{ports['PORT']}"
            async with asyncio.timeout(60), httpx.AsyncClient(base_url=health) as http:
                await serving(http)
                async with calling(f"127.0.0.1:{ports['GRPC_PORT']}", mint()) as alice:
                    for _ in range(CALLS // 50):
                        who = (alice.vault.WhoAmI(WhoAmIRequest(), metadata=alice.metadata) for _ in range(50))
                        await asyncio.gather(*who)
                metrics = (await http.get("/metrics")).text
                assert ("metamorph_log_lines_dropped_total 0.0" not in metrics) == drops
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
        finally:
            process.kill()
            process.wait()


async def serving(http: httpx.AsyncClient) -> None:
    """Returns once the server is healthy."""
    while True:
        try:
            if (await http.get("/health")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)
