"""`metamorph chat` as it runs: sends one message, or those that are typed until the end of input."""

import asyncio
from contextlib import AsyncExitStack

import grpc
from metamorph_client import MetamorphClient, MetamorphError

from metamorphd.cli.connection import tls_of
from metamorphd.cli.conversation import Conversation
from metamorphd.cli.endings import failed_call
from metamorphd.cli.stopping import GIVE_UP_SECONDS, Left
from metamorphd.cli.talking import Talk
from metamorphd.cli.tenant import accepted_models, require_model
from metamorphd.cli.terminal import Terminal
from metamorphd.settings.client import ClientSettings

HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is a server running? `make run` starts one; --target selects another",
    grpc.StatusCode.UNAUTHENTICATED: "pass --token or set METAMORPH_TOKEN; `metamorph token` mints one",
    grpc.StatusCode.NOT_FOUND: "omit --session to start a new one",
}


def converse(
    settings: ClientSettings,
    *,
    session_id: str,
    model: str,
    message: str | None,
    as_json: bool,
    whole_thinking: bool,
) -> bool:
    """Sends `message`, or what is typed, in a session; a new one if `session_id` is empty.

    Returns whether the last reply is complete. Raises ClickException.
    """
    terminal = Terminal(as_json=as_json, whole_thinking=whole_thinking)
    models: list[str] = []

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
        conversation = Conversation(client, terminal, model=model)
        if session_id:
            await conversation.open(session_id)
        if message is None:
            # A server that is not there, or refuses the token, ends the command before anything is typed.
            models.extend(await _models(client))
        return conversation

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        conversation: Conversation | None = None
        try:
            conversation = runner.run(connect())
            if message is None:
                complete = Talk(runner, conversation, terminal, models, HINTS).go_on(history=settings.history)
            else:
                complete = runner.run(conversation.send(message))
        except Left:
            complete = False
        except MetamorphError as exc:
            raise failed_call(exc, HINTS) from exc
        finally:
            runner.run(stack.aclose())
            if conversation is not None and conversation.unused:
                terminal.note(f"Session {conversation.unused} stays without a message: the token may not delete it.")
    if conversation is not None and conversation.session_id:
        terminal.note(f"Continue with --session {conversation.session_id}")
    return complete


async def _models(client: MetamorphClient) -> list[str]:
    """Returns the names of the server's models, or none to a caller that can send and may not list them."""
    try:
        return await accepted_models(client)
    except MetamorphError as exc:
        if exc.code is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        return []
