"""Serves what the cost of observing calls is compared with: `python -m bench.observing unobserved|receiver`.

The first is the whole server, but that it neither counts, logs nor traces calls. The second takes the traces of the one
that does, in a process of its own.
"""

import asyncio
import sys
from collections.abc import Callable

from metamorphd import server
from metamorphd.cli import cli
from metamorphd.edge.call import Call
from metamorphd.edge.methods import Method
from metamorphd.edge.pipeline import Pipeline

from tests.support.fakes.otlp_receiver import OtlpReceiver


class Unobserved(Pipeline):
    """Counts only the calls in progress, without which a server does not drain."""

    def _end_of(self, method: Method) -> Callable[[Call], None]:
        def end(_call: Call) -> None:
            self._calls_in_progress -= 1
            if not self._calls_in_progress:
                self._idle.set()

        return end


async def _receive() -> None:
    async with OtlpReceiver() as receiver:
        sys.stdout.write(f"{receiver.url.rpartition(':')[2]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "receiver":
        asyncio.run(_receive())
    else:
        vars(server)["Pipeline"] = Unobserved
        cli(["serve"])
