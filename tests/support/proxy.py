"""A TCP proxy whose connections a test can cut, or leave without an answer."""

import asyncio
from contextlib import suppress
from typing import Self


class CuttingProxy:
    """Forwards connections to `port` on loopback, except while `down`.

    While `silent` it accepts them, reads, and answers nothing. While `muted` it forwards what clients send, and loses
    the answers. `delay` precedes whatever is forwarded, in seconds. `cut_after` is how many more bytes of answers it
    forwards before it cuts every connection, once. `connections` counts all that were made.
    """

    def __init__(self, port: int) -> None:
        self.port_behind = port
        self.down = self.silent = self.muted = False
        self.delay = 0.0
        self.cut_after: int | None = None
        self.connections = 0
        self.connected = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Resets every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        if self.down:
            writer.transport.abort()
            return
        with suppress(OSError):
            if self.silent:
                self._writers.add(writer)
                self.connected.set()
                while await reader.read(65536):
                    pass
                return
            try:
                ahead, behind = await asyncio.open_connection("127.0.0.1", self.port_behind)
            except OSError:
                writer.transport.abort()
                return
            self._writers |= {writer, behind}
            self.connected.set()
            await asyncio.gather(self._pump(reader, behind), self._pump(ahead, writer, answers=True))
            self._writers -= {writer, behind}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if answers and self.muted:
                    continue
                writer.write(data)
                await writer.drain()
                if answers:
                    self._count(len(data))
        writer.close()

    def _count(self, size: int) -> None:
        if self.cut_after is not None:
            self.cut_after -= size
            if self.cut_after <= 0:
                self.cut_after = None
                self.cut()
