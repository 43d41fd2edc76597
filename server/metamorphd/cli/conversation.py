"""A conversation in the terminal."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Self

import click
import grpc
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1.chat_service_pb2 import CancelTurnRequest, CreateSessionRequest, GetSessionRequest
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.message_pb2 import Usage
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import (
    STOP_REASON_CONTEXT_EXCEEDED,
    STOP_REASON_MAX_TOKENS,
    STOP_REASON_PAUSE,
    STOP_REASON_REFUSAL,
    TURN_STATUS_COMPLETED,
    TurnEvent,
    TurnFinished,
    TurnStatus,
)

from metamorphd.cli.connection import tls_of
from metamorphd.cli.endings import failed_call
from metamorphd.cli.tenant import require_model
from metamorphd.cli.terminal import Terminal
from metamorphd.settings.client import ClientSettings

HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is a server running? `make run` starts one; --target selects another",
    grpc.StatusCode.UNAUTHENTICATED: "pass --token or set METAMORPH_TOKEN; `metamorph token` mints one",
    grpc.StatusCode.NOT_FOUND: "omit --session to start a new one",
}
STOP_REASONS = {
    STOP_REASON_MAX_TOKENS: "The reply was cut off: it has as many tokens as it may",
    STOP_REASON_CONTEXT_EXCEEDED: "The reply was cut off: the model's context is full",
    STOP_REASON_PAUSE: "The model paused. Send a message to go on",
    STOP_REASON_REFUSAL: "The model declined to reply",
}
GIVE_UP_SECONDS = 30.0
TITLE_CHARACTERS = 80
SHOWN_NANOS = 100_000


class Conversation:
    """A session, and the terminal that it is shown on."""

    def __init__(self, client: MetamorphClient, session_id: str, model: str, terminal: Terminal) -> None:
        self._client = client
        self._options = GenerationOptions(model=model)
        self._terminal = terminal
        self.session_id = session_id

    async def send(self, text: str) -> bool:
        """Sends a message and prints the reply, which Ctrl-C stops. Returns whether it is complete.

        Raises Left for a second Ctrl-C, MetamorphError.
        """
        stopping = _Stopping(self._client, self._terminal)

        async def received() -> AsyncIterator[TurnEvent]:
            async with aclosing(self._client.send(self.session_id, text, options=self._options)) as events:
                async for event in events:
                    stopping.is_of(event.turn_id)
                    yield event

        try:
            with stopping:
                finished = await self._terminal.show(received())
        except asyncio.CancelledError:
            if stopping.turn_id:
                what = (
                    f"Left turn {stopping.turn_id}. If it did not stop, session {self.session_id} will have its reply."
                )
                self._terminal.note(what)
            raise Left from None
        if finished is None:
            return False
        for note in _ending(finished):
            self._terminal.note(note)
        return finished.status == TURN_STATUS_COMPLETED


class Left(Exception):
    """A reply was left before its end."""


class _Stopping:
    """Ctrl-C in a block that shows a turn: the first cancels the turn, the second the task."""

    def __init__(self, client: MetamorphClient, terminal: Terminal) -> None:
        self._client = client
        self._terminal = terminal
        self._pressed = False
        self._cancelling: asyncio.Task[None] | None = None
        self.turn_id = ""

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        if self._cancelling is not None:
            self._cancelling.cancel()

    def is_of(self, turn_id: str) -> None:
        """Takes the turn's ID, which is not known before its first event. A turn that was stopped by then ends."""
        self.turn_id = turn_id
        if self._pressed and self._cancelling is None:
            self._cancelling = asyncio.create_task(self._cancel())

    def _press(self) -> None:
        if self._pressed and self._task is not None:
            self._task.cancel()
        self._pressed = True
        self._terminal.status("Stopping the reply. Ctrl-C leaves it", stays=True)
        if self.turn_id:
            self.is_of(self.turn_id)

    async def _cancel(self) -> None:
        request = CancelTurnRequest(turn_id=self.turn_id)
        try:
            await self._client.chat.CancelTurn(request, wait_for_ready=True, timeout=GIVE_UP_SECONDS)
        except MetamorphError as exc:
            self._terminal.note(f"The reply was not stopped: {exc}")


def _ending(finished: TurnFinished) -> list[str]:
    """Returns what a turn cost, and why it ended if that is not the reply's end."""
    notes = [_cost(finished.usage)]
    if finished.status != TURN_STATUS_COMPLETED:
        status = TurnStatus.Name(finished.status).removeprefix("TURN_STATUS_")
        # A cancelled turn has no error.
        error = f": {finished.error.reason}: {finished.error.message}" if finished.HasField("error") else ""
        notes.append(f"{status}{error}")
    elif finished.stop_reason in STOP_REASONS:
        details = [finished.stop_details.category, finished.stop_details.explanation]
        notes.append(": ".join([STOP_REASONS[finished.stop_reason], *filter(None, details)]))
    return notes


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
    """Sends `message`, or prompts for messages until Ctrl-D or Ctrl-C. Returns whether the last reply is complete.

    Raises what refuses `message`. What refuses a message of a conversation is printed.
    """
    complete, text = True, message
    if message is None:
        terminal.note(f"Session {conversation.session_id}. Ctrl-C stops replies, Ctrl-D ends.")
        text = _typed()
    while text is not None:
        try:
            complete = runner.run(conversation.send(text)) if text.strip() else complete
        except Left:
            complete = False
            break
        except MetamorphError as exc:
            if message is not None:
                raise
            complete = False
            terminal.note(failed_call(exc, HINTS).message)
        text = _typed() if message is None else None
    terminal.note(f"Continue with --session {conversation.session_id}")
    return complete


def _typed() -> str | None:
    """Prompts for a message. Returns None for Ctrl-D and Ctrl-C."""
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None


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
            tls=tls_of(settings),
            give_up_after=GIVE_UP_SECONDS,
            on_retry=lambda refusal: terminal.status(f"Trying again after {refusal}"),
        )
        await stack.enter_async_context(client)
        if model:
            await require_model(client, model)
        return Conversation(client, await _session(client, session_id, message or ""), model, terminal)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            return _talk(runner.run(connect()), message, runner, terminal)
        except MetamorphError as exc:
            raise failed_call(exc, HINTS) from exc
        finally:
            runner.run(stack.aclose())
