"""The client for programs that do not use asyncio: the same one, on a thread of its own."""

import asyncio
import copy
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message as ProtoMessage

from metamorph_client.channel import TLS
from metamorph_client.chat.v1.turn_pb2 import Turn, TurnEvent, TurnFinished
from metamorph_client.client import MetamorphClient
from metamorph_client.errors import MetamorphError
from metamorph_client.identity import Token
from metamorph_client.lists import each
from metamorph_client.portal import Portal
from metamorph_client.replies import Reply
from metamorph_client.stubs import SyncStubs, without_stubs
from metamorph_client.waiting import WaitingChannel

P = ParamSpec("P")
T = TypeVar("T")


class SyncReply:
    """The reply of a turn. Iterate over it for its events, each of which arrives once, and in order.

    Leaving the loop, or `close`, ends the stream only: the turn goes on, and its reply is stored. Another loop goes on
    after the last event that was seen, as `text` and `final` do. They wait for the loop of another thread. `cancel`
    stops the turn.
    """

    def __init__(self, reply: Reply, portal: Portal) -> None:
        self.turn_id = reply.turn_id
        self._reply = reply
        self._portal = portal

    @property
    def revision(self) -> int:
        """The vault's revision, or a later one, once the last event with one was stored, or 0 if none has arrived."""
        return self._reply.revision

    def __iter__(self) -> Iterator[TurnEvent]:
        return self._portal.iterate(aiter(self._reply))

    def __next__(self) -> TurnEvent:
        async def following() -> TurnEvent | None:
            return await anext(self._reply, None)

        event = self._portal.run(following())
        if event is None:
            raise StopIteration
        return event

    def final(self) -> TurnFinished:
        """Returns how the turn has ended, with the stored message, once it has. Raises MetamorphError.

        A turn that has failed is no error here: `status` says so. If another thread has a loop over the reply, that
        loop has all events, and this waits until it has ended.
        """
        finished = self._reply.finished
        return self._portal.run(self._reply.final()) if finished is None else finished

    def text(self) -> Iterator[str]:
        """Yields the text as it arrives. Raises MetamorphError."""
        return self._portal.iterate(self._reply.text())

    def cancel(self) -> Turn:
        """Stops the turn, and returns it. What was generated so far is kept, and the events still come to an end."""
        return self._portal.run(self._reply.cancel())

    def close(self) -> None:
        """Ends the stream, and the loops over it, as if they were left. The turn goes on."""
        self._portal.run(self._reply.aclose())


def _waiting(
    method: Callable[Concatenate[MetamorphClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncMetamorphClient", P], T]:
    """Returns a method that waits for one of the async client."""

    @functools.wraps(method)
    def wait(self: "SyncMetamorphClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.portal.run(method(self.client, *args, **kwargs))

    return wait


def _iterating(
    method: Callable[Concatenate[MetamorphClient, P], AsyncGenerator[T]],
) -> Callable[Concatenate["SyncMetamorphClient", P], Generator[T]]:
    """Returns a method that iterates over what one of the async client yields."""

    @functools.wraps(method)
    def iterate(self: "SyncMetamorphClient", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        return self.portal.iterate(method(self.client, *args, **kwargs))

    return iterate


def _replying(
    method: Callable[Concatenate[MetamorphClient, P], Coroutine[Any, Any, Reply]],
) -> Callable[Concatenate["SyncMetamorphClient", P], SyncReply]:
    """Returns a method that waits for the start of a reply."""

    @functools.wraps(method)
    def reply(self: "SyncMetamorphClient", /, *args: P.args, **kwargs: P.kwargs) -> SyncReply:
        return SyncReply(self.portal.run(method(self.client, *args, **kwargs)), self.portal)

    return reply


class SyncMetamorphClient(SyncStubs):
    """A client of one server for any number of threads. Use it as a context manager.

    Everything is as in MetamorphClient, whose methods these are. `token` and `on_retry` are called on other threads.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        token: Token = None,
        tls: bool | TLS = False,
        vault: str | None = None,
        timeout: float = 60.0,
        give_up_after: float = 120.0,
        on_retry: Callable[[MetamorphError], object] = lambda error: None,
    ) -> None:
        async def connected() -> MetamorphClient:
            return MetamorphClient(
                target,
                token=self._asked(token),
                tls=tls,
                vault=vault,
                timeout=timeout,
                give_up_after=give_up_after,
                on_retry=_beside_calls(on_retry),
            )

        self.portal = Portal()
        try:
            self.client = self.portal.run(connected())
        except BaseException:
            self.portal.close()
            raise
        self._shares_connection = False
        self._identify(self.client)

    def _identify(self, client: MetamorphClient) -> None:
        self.client = client
        self.channel = cast(grpc.Channel, WaitingChannel(client.channel, self.portal))
        without_stubs(self)

    def with_token(self, token: Token) -> Self:
        """Returns a client for another identity over the same connection: it sends this token, and no vault.

        It can be made for each request of a web server. Closing it closes nothing, and it is closed with this one.
        """
        other = copy.copy(self)
        other._shares_connection = True
        other._identify(self.client.with_token(self._asked(token)))
        return other

    def _asked(self, token: Token) -> Token:
        return _beside_calls(token, self.portal.token_workers) if callable(token) else token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, the thread, and what goes on, with MetamorphError. Turns go on. Can be repeated."""
        if not self._shares_connection:
            self.portal.close(self.client.close)

    metadata = _waiting(MetamorphClient.metadata)
    create_session = _waiting(MetamorphClient.create_session)
    start = _replying(MetamorphClient.start)
    send = _iterating(MetamorphClient.send)
    regenerate = _replying(MetamorphClient.regenerate)
    follow = _replying(MetamorphClient.follow)
    cancel = _waiting(MetamorphClient.cancel)
    run_tools = _waiting(MetamorphClient.run_tools)
    upload = _waiting(MetamorphClient.upload)
    download = _iterating(MetamorphClient.download)
    list_sessions = _iterating(MetamorphClient.list_sessions)
    list_messages = _iterating(MetamorphClient.list_messages)
    list_turns = _iterating(MetamorphClient.list_turns)
    list_memories = _iterating(MetamorphClient.list_memories)
    search_messages = _iterating(MetamorphClient.search_messages)

    def pages(self, method: Callable[[Any], Any], request: ProtoMessage) -> Iterator[Any]:
        """Yields what every page of a List or Search method has, such as `pages(client.vault.ListSecrets, request)`.

        Raises MetamorphError, and TypeError for a method that has no pages.
        """

        async def page(asked: Any) -> Any:
            return await asyncio.to_thread(method, asked)

        return self.portal.iterate(each(page, request))


def _beside_calls(
    function: Callable[P, T | Awaitable[T]], workers: Executor | None = None
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Returns an async function that calls one of the caller's, which may take its time, on a thread."""

    async def called(*args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(function, *args, **kwargs)
        found = await asyncio.get_running_loop().run_in_executor(workers, call)
        return await found if isinstance(found, Awaitable) else found

    return called
