"""A process that serves, from its start to a signal or a failure that ends it."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import structlog

from metamorphd.edge.connections import raise_descriptor_limit
from metamorphd.errors import ServerFailed
from metamorphd.models.finding import Finding
from metamorphd.server import Server, first_of
from metamorphd.settings.server import Settings

# Time for a server that failed to answer its callers.
LAST_STOP_SECONDS = 5.0
SWITCH_SECONDS = 0.0002

logger = structlog.get_logger(__name__)


async def serve(
    settings: Settings, *, found: Sequence[Finding] = (), announce: Callable[[Server], None] = lambda _: None
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once. A start is cut short.

    Raises StartupRefused, and ServerFailed if it cannot go on.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    # The writer thread may wait this long for the GIL, several times per commit. The default of 5 ms is noticeable.
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_descriptor_limit()
    server = Server(settings, found=found)
    if not await _started(server, stopping):
        logger.info("stopped")
        return
    settling = asyncio.create_task(_settle(server))
    announce(server)
    failed = await first_of(stopping.wait(), server.failed())
    settling.cancel()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(signum)
    if failed:
        # Parts may wait for the store in vain.
        last = threading.Timer(LAST_STOP_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
        try:
            await server.stop(grace_seconds=0)
        finally:
            last.cancel()
        raise ServerFailed("the server failed and must be started again; the log has the reason")
    await server.stop()
    logger.info("stopped")


async def _started(server: Server, stopping: asyncio.Event) -> bool:
    """Starts a server. Returns whether it serves, or is closed again because it was to stop before."""
    starting = asyncio.ensure_future(server.start())
    await first_of(asyncio.wait({starting}), stopping.wait())
    if not starting.done():
        starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        return False
    return True


async def _settle(server: Server) -> None:
    """Exempts from garbage collections what is made at the start: scanning it would delay every call by 0.1 s."""
    with contextlib.suppress(Exception):
        # If it fails, the server ends.
        await server.opened()
    gc.collect()
    gc.freeze()
