"""A conversation in the terminal."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress

import click
import grpc
from google.protobuf.json_format import MessageToDict
from metamorph.chat.v1.chat_service_pb2 import CreateSessionRequest, GetSessionRequest
from metamorph.chat.v1.generation_pb2 import GenerationOptions
from metamorph.chat.v1.message_pb2 import Usage
from metamorph.chat.v1.session_pb2 import Session
from metamorph.chat.v1.turn_pb2 import STOP_REASON_REFUSAL, TURN_STATUS_COMPLETED, TurnEvent, TurnFinished, TurnStatus
from metamorph.client import MetamorphClient, MetamorphError
from rich.console import Console

from metamorphd.cli.connection import credentials
from metamorphd.cli.endings import failed_call
from metamorphd.cli.rendering import LiveReply
from metamorphd.cli.tenant import require_model
from metamorphd.settings.client import ClientSettings

HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is a server running? `make run` starts one; --target selects another",
    grpc.StatusCode.UNAUTHENTICATED: "pass --token or set METAMORPH_TOKEN; `metamorph token` mints one",
    grpc.StatusCode.NOT_FOUND: "omit --session to start a new one",
}
GIVE_UP_SECONDS = 30.0
TITLE_CHARACTERS = 80
SHOWN_NANOS = 100_000


class Terminal:
    """Prints replies: rendered as they arrive on a terminal, as plain text elsewhere, or as JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._notes = Console(stderr=True, highlight=False, style="dim")

    def note(self, text: str) -> None:
        """Prints a line that is not part of the conversation, on standard error."""
        self._notes.print(text, markup=False)

    async def show(self, events: AsyncIterator[TurnEvent]) -> TurnFinished | None:
        """Prints a turn. Returns its last event, or None if the stream ended before it."""
        if self._as_json:
            return await self._print(events, as_json=True)
        return await (self._render(events) if self._out.is_terminal else self._print(events, as_json=False))

    async def _print(self, events: AsyncIterator[TurnEvent], *, as_json: bool) -> TurnFinished | None:
        finished = None
        async for event in events:
            if as_json:
                click.echo(json.dumps(MessageToDict(event, preserving_proto_field_name=True)))
            else:
                click.echo(event.text_delta.text, nl=False)
            finished = event.turn_finished if event.HasField("turn_finished") else finished
        if not as_json:
            click.echo()
        return finished

    async def _render(self, events: AsyncIterator[TurnEvent]) -> TurnFinished | None:
        finished = None
        async with LiveReply(self._out) as reply:
            async for event in events:
                reply.add(event.text_delta.text)
                finished = event.turn_finished if event.HasField("turn_finished") else finished
        return finished


class Conversation:
    """A session, and the terminal that it is shown on."""

    def __init__(self, client: MetamorphClient, session_id: str, model: str, terminal: Terminal) -> None:
        self._client = client
        self._options = GenerationOptions(model=model)
        self._terminal = terminal
        self.session_id = session_id

    async def send(self, text: str) -> bool:
        """Sends a message and prints the reply. Returns whether the reply is complete."""
        turn_id = ""

        async def received() -> AsyncIterator[TurnEvent]:
            nonlocal turn_id
            async with aclosing(self._client.send(self.session_id, text, options=self._options)) as events:
                async for event in events:
                    turn_id = event.turn_id
                    yield event

        try:
            finished = await self._terminal.show(received())
        except asyncio.CancelledError:
            self._terminal.note(
                f"Left turn {turn_id}. It continues, and session {self.session_id} will have its reply."
            )
            raise
        if finished is None:
            return False
        self._terminal.note(_cost(finished.usage))
        if finished.status != TURN_STATUS_COMPLETED:
            status = TurnStatus.Name(finished.status).removeprefix("TURN_STATUS_")
            # A cancelled turn has no error.
            error = f": {finished.error.reason}: {finished.error.message}" if finished.HasField("error") else ""
            self._terminal.note(f"{status}{error}")
        elif finished.stop_reason == STOP_REASON_REFUSAL:
            details = [finished.stop_details.category, finished.stop_details.explanation]
            self._terminal.note(": ".join(["The model declined to reply", *filter(None, details)]))
        return finished.status == TURN_STATUS_COMPLETED


def _cost(usage: Usage) -> str:
    cached = f", {usage.cache_read_tokens} read from cache" if usage.cache_read_tokens else ""
    written = f", {usage.cache_write_tokens} written to cache" if usage.cache_write_tokens else ""
    price = f", {_dollars(usage.cost_usd_nanos)}" if usage.cost_usd_nanos else ""
    counts = f"{usage.input_tokens} tokens in, {usage.output_tokens} out{cached}{written}{price}"
    return f"At most {counts} (estimated)" if usage.estimated else counts


def _dollars(nanos: int) -> str:
    return f"${nanos / 1e9:.4f}" if nanos >= SHOWN_NANOS else f"less than ${SHOWN_NANOS / 1e9:.4f}"


async def _session(client: MetamorphClient, session_id: str, title: str) -> str:
    """Returns the id of the session: the given one, which must exist, or that of a new one."""
    if session_id:
        await client.chat.GetSession(GetSessionRequest(session_id=session_id))
        return session_id
    request = CreateSessionRequest(session=Session(title=title[:TITLE_CHARACTERS]))
    created = await client.chat.CreateSession(request)
    return created.session.session_id


def _talk(conversation: Conversation, message: str | None, runner: asyncio.Runner, terminal: Terminal) -> bool:
    """Sends `message`, or prompts for messages until the input ends. Returns whether the last reply is complete.

    Ctrl-C leaves a reply, Ctrl-D the conversation.
    """
    complete = True
    if message is None:
        terminal.note(f"Session {conversation.session_id}. Press Ctrl-D to leave.")
    while True:
        try:
            text = input("> ") if message is None else message
        except EOFError:
            text = ""
            message = ""
        if text.strip():
            with suppress(KeyboardInterrupt):
                complete = runner.run(conversation.send(text))
        if message is not None:
            terminal.note(f"Continue with --session {conversation.session_id}")
            return complete


def converse(settings: ClientSettings, *, session_id: str, model: str, message: str | None, as_json: bool) -> bool:
    """Sends `message`, or what is typed, in a session; a new one if `session_id` is empty.

    Returns whether the last reply is complete. Raises ClickException.
    """
    terminal = Terminal(as_json=as_json)

    async def connect() -> Conversation:
        client = MetamorphClient(
            settings.target,
            token=settings.sent_token,
            vault=settings.vault,
            credentials=credentials(settings),
            give_up_after=GIVE_UP_SECONDS,
            on_retry=lambda refusal: terminal.note(f"{refusal}; trying again"),
        )
        await stack.enter_async_context(client)
        if model:
            await require_model(client, model)
        return Conversation(client, await _session(client, session_id, message or ""), model, terminal)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            return _talk(runner.run(connect()), message, runner, terminal)
        except (MetamorphError, grpc.aio.AioRpcError) as exc:
            raise failed_call(exc, HINTS) from exc
        finally:
            runner.run(stack.aclose())
