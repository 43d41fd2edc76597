"""Clients that write at a steady rate, each one write after another, and what they wrote."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import session_pb2

from tests.support.caller import Caller
from tests.support.tokens import mint

VAULTS = 4
CREATES_EVERY = 4
LIFETIME_SECONDS = 24 * 3600
# A connection of its own for each vault, that does not wait as long as it would before it connects again.
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@dataclass
class Written:
    """The writes of one author, numbered from 1. Write `n` made session number `sessions[n - 1]`, or renamed it."""

    author: str
    vault: str
    sessions: list[int] = field(default_factory=list)
    session_ids: list[str] = field(default_factory=list)
    acknowledged: int = 0

    def after(self, moment: int) -> dict[int, int]:
        """Returns the newest write of each session once so many writes are stored."""
        return {session: number for number, session in enumerate(self.sessions[:moment], 1)}

    def missing(self, stored: Mapping[int, int], acknowledged: int) -> list[int]:
        """Returns the sessions in which something is older than what was acknowledged by then."""
        return [session for session, number in self.after(acknowledged).items() if stored.get(session, 0) < number]

    def of_one_moment(self, stored: Mapping[int, int]) -> bool:
        """Whether there is a moment at which exactly this was stored."""
        return dict(stored) == self.after(max(stored.values(), default=0))


class Author:
    """Writes until `stopping`, `each_seconds` apart, or as fast as it can if that is too fast."""

    def __init__(self, written: Written, *, caller: Caller, seed: str, each_seconds: float) -> None:
        self.written = written
        self.stopping = False
        self._caller = caller
        self._random = random.Random(seed)  # noqa: S311, repeatable
        self._each_seconds = each_seconds

    async def run(self) -> None:
        """Raises AioRpcError for a write that fails before `stopping`."""
        due = time.monotonic() + self._random.uniform(0, self._each_seconds)
        while not self.stopping:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            # What is late is not made up for all at once.
            due = max(due, time.monotonic() - self._each_seconds) + self._each_seconds
            try:
                await self._write()
            except grpc.aio.AioRpcError:
                if not self.stopping:
                    raise

    async def _write(self) -> None:
        written, number = self.written, len(self.written.sessions) + 1
        if number % CREATES_EVERY == 1:
            session = len(written.session_ids)
            written.sessions.append(session)
            made = await self._caller.create_session(title=self._title(session, number))
            written.session_ids.append(made.session_id)
        else:
            session = self._random.randrange(len(written.session_ids))
            written.sessions.append(session)
            renamed = session_pb2.Session(session_id=written.session_ids[session], title=self._title(session, number))
            request = pb.UpdateSessionRequest(session=renamed, update_mask=FieldMask(paths=["title"]))
            await self._caller.chat.UpdateSession(request, metadata=self._caller.metadata)
        written.acknowledged = number

    def _title(self, session: int, number: int) -> str:
        return f"{self.written.author} {session} {number}"

    async def differs(self, caller: Caller, stored: Mapping[int, int]) -> bool:
        """Whether a server has another title for the session that was written last."""
        if not stored:
            return False
        session, number = max(stored.items(), key=lambda written: written[1])
        request = pb.GetSessionRequest(session_id=self.written.session_ids[session])
        got = (await caller.chat.GetSession(request, metadata=self._caller.metadata)).session
        return bool(got.title != self._title(session, number))


@asynccontextmanager
async def authors(target: str, count: int, *, generation: int, seed: int, rate: float) -> AsyncIterator[list[Author]]:
    """Yields authors that do not write yet. All together they write `rate` times a second."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options=OPTIONS)) for _ in range(VAULTS)
        ]
        made = []
        for number in range(count):
            vault = f"vault-{number % VAULTS}"
            token = mint(vault=vault, user=f"author-{number}", exp=int(time.time()) + LIFETIME_SECONDS)
            caller = Caller(channels[number % VAULTS], [("authorization", f"Bearer {token}")])
            written = Written(f"{generation}.{number}", vault)
            made.append(Author(written, caller=caller, seed=f"{seed} {generation} {number}", each_seconds=count / rate))
        yield made


@asynccontextmanager
async def writing(some: Sequence[Author]) -> AsyncIterator[None]:
    """Authors write during the block. Raises what ended one of them."""
    tasks = [asyncio.create_task(author.run()) for author in some]
    try:
        yield
    finally:
        for author in some:
            author.stopping = True
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        task.result()
