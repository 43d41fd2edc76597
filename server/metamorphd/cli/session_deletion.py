"""Deletes a session."""

import click
from metamorph_client import MetamorphClient
from metamorph_client.chat.v1.chat_service_pb2 import DeleteSessionRequest, GetSessionRequest
from metamorph_client.chat.v1.session_pb2 import Session

from metamorphd.cli.listing import json_line, printable
from metamorphd.cli.tenant import run_as_tenant
from metamorphd.models.counted import counted
from metamorphd.settings.client import ClientSettings


def delete_session(settings: ClientSettings, session_id: str, *, ask: bool, as_json: bool) -> None:
    """Deletes a session, once that is confirmed if it has to `ask`. Raises ClickException, and Abort."""
    found = Session()

    async def find(client: MetamorphClient) -> bool:
        found.CopyFrom((await client.chat.GetSession(GetSessionRequest(session_id=session_id))).session)
        return True

    async def delete(client: MetamorphClient) -> bool:
        answer = await client.chat.DeleteSession(DeleteSessionRequest(session_id=session_id))
        click.echo(json_line(answer) if as_json else f"{session_id} is deleted.")
        return True

    if ask:
        # A call of its own: while somebody is asked, Ctrl-C must end the command.
        run_as_tenant(settings, find)
        title = f" ({printable(found.title)})" if found.title else ""
        count = counted(found.message_count, "message")
        click.confirm(f"Delete {session_id}{title} with {count}? Nobody can bring it back.", abort=True, err=True)
    run_as_tenant(settings, delete)
