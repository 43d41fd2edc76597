"""Lists of sessions, messages, turns and models, as a user of a vault reads them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client import MetamorphClient
from metamorph_client.chat.v1.chat_service_pb2 import (
    CancelTurnRequest,
    ListModelsRequest,
    ListSessionsRequest,
    ListTurnsRequest,
    MessageMatch,
    SearchMessagesRequest,
)
from metamorph_client.chat.v1.message_pb2 import Usage
from metamorph_client.chat.v1.model_pb2 import Model
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import StopReason, Turn, TurnStatus
from rich.text import Text

from metamorphd.cli.listing import Column, Listing, json_line, printable, time_cell
from metamorphd.cli.money import usd
from metamorphd.cli.paging import pages
from metamorphd.cli.tenant import run_as_tenant
from metamorphd.settings.client import ClientSettings


def tokens(usage: Usage) -> int:
    """Returns all tokens of a usage, as budgets count them."""
    return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def outcome(turn: Turn) -> str:
    """Returns a turn's status, with the reason if it did not complete, or did not end as replies do."""
    status = TurnStatus.Name(turn.status).removeprefix("TURN_STATUS_").lower()
    stop = StopReason.Name(turn.stop_reason).removeprefix("STOP_REASON_").lower()
    usual = stop in ("unspecified", "end_turn")
    reason = turn.error.reason if turn.HasField("error") else "" if usual else stop
    return f"{status}: {reason}" if reason else status


def last_active(session: Session) -> Timestamp:
    """Returns when a session had its last message, or was created if it has none. Lists are in this order."""
    return session.last_message_time if session.HasField("last_message_time") else session.create_time


def _highlighted(match: MessageMatch) -> Text:
    # Each substitute is one character, as what it stands for, so that the ranges stay true.
    text = Text(printable(match.snippet).replace("\n", " ").replace("\t", " "))
    for found in match.highlights:
        text.stylize("bold", found.start, found.end)
    return text


def _per_million(model: Model, price: str) -> str:
    return usd(getattr(model.prices[0], price) * 1_000_000) if model.prices else ""


def _retirement(model: Model) -> str:
    return f"{model.retire_time.ToDatetime():%Y-%m-%d}" if model.HasField("retire_time") else ""


SESSIONS: Sequence[Column[Session]] = (
    Column("session", lambda session: session.session_id),
    Column("active", lambda session: time_cell(last_active(session)), numeric=True),
    Column("messages", lambda session: f"{session.message_count}", numeric=True),
    Column("title", lambda session: f"{session.title}{' (archived)' * session.archived}", gives_way=True),
)
MATCHES: Sequence[Column[MessageMatch]] = (
    Column("session", lambda match: match.session_id),
    Column("sent", lambda match: time_cell(match.create_time), numeric=True),
    Column("text", _highlighted, gives_way=True, wraps=True),
)
TURNS: Sequence[Column[Turn]] = (
    Column("turn", lambda turn: turn.turn_id),
    Column("begun", lambda turn: time_cell(turn.create_time), numeric=True),
    Column("tokens", lambda turn: f"{tokens(turn.usage)}", numeric=True),
    Column("USD", lambda turn: usd(turn.usage.cost_usd_nanos), numeric=True),
    Column("status", outcome, gives_way=True, wraps=True),
)
MODELS: Sequence[Column[Model]] = (
    Column("model", lambda model: f"{model.model}{' (default)' * model.is_default}"),
    Column("context", lambda model: f"{model.context_tokens}", numeric=True),
    Column("output", lambda model: f"{model.max_output_tokens}", numeric=True),
    Column("USD/M in", lambda model: _per_million(model, "input_usd_nanos"), numeric=True),
    Column("USD/M out", lambda model: _per_million(model, "output_usd_nanos"), numeric=True),
    Column("retires", _retirement),
)


def list_sessions(
    settings: ClientSettings,
    *,
    archived: bool | None,
    creator: str | None,
    metadata: Mapping[str, str],
    limit: int | None,
    as_json: bool,
) -> None:
    """Prints the sessions that pass all filters. Raises ClickException."""
    request = ListSessionsRequest(archived=archived, creator=creator, metadata=metadata)
    listing = Listing(SESSIONS, as_json=as_json, nothing="There are no such sessions.")
    _print(settings, listing, lambda client: client.chat.ListSessions, request, field="sessions", limit=limit)


def search_messages(
    settings: ClientSettings, query: str, *, session_id: str | None, limit: int | None, as_json: bool
) -> None:
    """Prints the messages that have the words of a query. Raises ClickException."""
    request = SearchMessagesRequest(query=query, session_id=session_id)
    listing = Listing(MATCHES, as_json=as_json, nothing="No message has all of these words.")
    _print(settings, listing, lambda client: client.chat.SearchMessages, request, field="results", limit=limit)


def list_turns(
    settings: ClientSettings, session_id: str, *, status: str | None, limit: int | None, as_json: bool
) -> None:
    """Prints the turns of a session. Raises ClickException."""
    wanted = TurnStatus.Value(f"TURN_STATUS_{(status or 'unspecified').upper()}")
    request = ListTurnsRequest(session_id=session_id, status=wanted)
    listing = Listing(TURNS, as_json=as_json, nothing="There are no such turns.")
    _print(settings, listing, lambda client: client.chat.ListTurns, request, field="turns", limit=limit)


def cancel_turn(settings: ClientSettings, turn_id: str, *, as_json: bool) -> None:
    """Cancels a turn, and prints how it has ended. Raises ClickException."""

    async def cancel(client: MetamorphClient) -> bool:
        turn = (await client.chat.CancelTurn(CancelTurnRequest(turn_id=turn_id))).turn
        click.echo(json_line(turn) if as_json else f"{turn.turn_id} has ended: {outcome(turn)}.")
        return True

    run_as_tenant(settings, cancel)


def list_models(settings: ClientSettings, *, as_json: bool) -> None:
    """Prints the models of a server. Raises ClickException."""

    async def work(client: MetamorphClient) -> bool:
        listing = Listing(MODELS, as_json=as_json, nothing="The server has no models.")
        listing.add((await client.chat.ListModels(ListModelsRequest())).models)
        listing.end()
        return True

    run_as_tenant(settings, work)


def _print(
    settings: ClientSettings,
    listing: Listing[Any],
    method: Callable[[MetamorphClient], Any],
    request: Any,
    *,
    field: str,
    limit: int | None,
) -> None:
    async def work(client: MetamorphClient) -> bool:
        async for page in pages(method(client), request, limit=limit, rows=lambda page: getattr(page, field)):
            listing.add(getattr(page, field))
        listing.end()
        return True

    run_as_tenant(settings, work)
