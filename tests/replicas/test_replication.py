"""A primary under load that Litestream replicates, killed with kill -9 and restored elsewhere."""

import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from metamorphd.store.database import Transaction

from tests.support.caller import Caller, calling
from tests.support.copies import until
from tests.support.engines import ENGINES
from tests.support.litestream import Target, kill, replicated, restore
from tests.support.rows import ACME

(ENGINE,) = [engine for engine in ENGINES if engine.name == "sqlite"]

WRITERS = 8
LOAD_SECONDS = 5.0
# One second until the next sync, the upload, and a busy machine.
MOST_LOST_SECONDS = 5.0
LEAST_WRITTEN = 500


@dataclass
class Written:
    """The sessions that a server has acknowledged, each with the time of its answer."""

    times: dict[str, float] = field(default_factory=dict)
    slowest: float = 0.0

    async def write(self, caller: Caller, *, until: float) -> None:
        """Writes until then, or until the server is gone."""
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                session = await caller.create_session(title="x" * 200)
            except grpc.aio.AioRpcError as exc:
                if exc.code() is grpc.StatusCode.UNAVAILABLE:
                    return
                raise
            now = time.monotonic()
            self.times[session.session_id] = now
            self.slowest = max(self.slowest, now - began)


async def load(address: str, written: Written, *, seconds: float) -> None:
    async with calling(address) as caller:
        until = time.monotonic() + seconds
        await asyncio.gather(*(written.write(caller, until=until) for _ in range(WRITERS)))


async def list_session_ids(tx: Transaction) -> set[str]:
    return {str(row.session_id) for row in await tx.all("SELECT session_id FROM sessions WHERE vault_id = :vault_id")}


async def sessions_restored(directory: Path, target: Target) -> set[str]:
    """Restores a replica elsewhere, checks it, and returns the sessions in it."""
    directory.mkdir()
    restore(target, directory / "metamorph.db")
    async with ENGINE.database(directory) as database:
        return await database.read(list_session_ids, ACME)


@pytest.mark.timeout(120)
async def test_a_killed_primary_is_restored_elsewhere_and_loses_seconds(tmp_path: Path, target: Target) -> None:
    written = Written()
    with replicated(tmp_path / "primary", target) as primary:
        loading = asyncio.create_task(load(primary.target, written, seconds=LOAD_SECONDS + 60))
        began = time.monotonic()
        await asyncio.sleep(LOAD_SECONDS)
        await until(lambda: len(written.times) >= LEAST_WRITTEN)
        kill(primary.process)
        killed = time.monotonic()
        await loading
    rate = len(written.times) / (killed - began)
    kept = await sessions_restored(tmp_path / "restored", target)
    lost = [at for session_id, at in written.times.items() if session_id not in kept]
    seconds = killed - min(lost, default=killed)
    figures = f"{rate:.0f} writes/s, slowest {written.slowest:.3f} s; {len(lost)} lost, of the last {seconds:.2f} s"
    sys.stdout.write(f"{figures}\n")
    assert seconds <= MOST_LOST_SECONDS
    # On an empty volume, elsewhere, the same command serves what is left, and goes on replicating it.
    with replicated(tmp_path / "elsewhere", target) as elsewhere:
        # Before that, within its first second, a stop sends nothing.
        await until(lambda: [*(tmp_path / "elsewhere").glob(".*-litestream/**/*.ltx")])
        async with calling(elsewhere.target) as caller:
            assert {each.session_id for each in await caller.sessions(page_size=10)} <= kept
            added = (await caller.create_session(title="afterwards")).session_id
        # As a container's first process it gets the signal, and passes it on.
        elsewhere.process.terminate()
        assert elsewhere.process.wait(timeout=60) == 0
        assert '"message":"stopped"' in elsewhere.log.read_text()
    assert await sessions_restored(tmp_path / "again", target) == kept | {added}


async def test_what_a_stop_in_the_first_second_did_not_send_is_sent_by_the_next_start(
    tmp_path: Path, target: Target
) -> None:
    for number in range(2):
        with replicated(tmp_path / "server", target) as server:
            async with calling(server.target) as caller:
                if not number:
                    kept = (await caller.create_session()).session_id
                else:
                    await until(lambda: [*(tmp_path / "server").glob(".*-litestream/**/*.ltx")])
            server.process.terminate()
            assert server.process.wait(timeout=60) == 0
    assert await sessions_restored(tmp_path / "restored", target) == {kept}
