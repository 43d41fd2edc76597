"""Shortcuts for store operations in tests."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

from metamorphd.catalog import load_catalog
from metamorphd.clock import Clock
from metamorphd.models.caller import SERVER, Scope, server_scope
from metamorphd.models.content import TextBlock
from metamorphd.models.generation import GenerationOptions
from metamorphd.models.message import Message, Role
from metamorphd.models.session import Session
from metamorphd.models.turn import TextDelta, Turn, TurnFinished, TurnStatus
from metamorphd.models.usage import Usage
from metamorphd.store.database import Database
from metamorphd.store.erasure import erase_step, read_part
from metamorphd.store.erasures import find_erasure
from metamorphd.store.messages import create_message
from metamorphd.store.sessions import create_session
from metamorphd.store.turns.create import create_turn
from metamorphd.store.turns.events import append_events
from metamorphd.store.turns.finish import finish_turn
from metamorphd.store.turns.terms import Terms

from tests.support.engines import ENGINES

CLOCK = Clock()
TERMS = Terms(
    catalog=load_catalog(None, now=CLOCK.now()),
    default_model="claude-sonnet-5-5",
    max_output_tokens=1000,
    max_running_turns=100,
    compact_above=0,
    owner="srv_test",
    lease=30_000_000,
)
KEY = bytes(32)


def scope_of(vault_id: str, user_id: str = "alice") -> Scope:
    """Returns the scope of a user of a vault."""
    return Scope(vault_id, replace(SERVER, vault_id=vault_id, user_id=user_id), "call-1")


def row_counts(directory: Path, *tables: str) -> tuple[int, ...]:
    """How many rows tables have in the data of a server of the usual engine."""
    return ENGINES[0].counts(directory, *tables)


ACME, EVIL = scope_of("acme"), scope_of("evil", "mallory")


async def new_session(database: Database, scope: Scope = ACME, **fields: Any) -> Session:
    """Stores a session whose fields are empty unless given."""
    values: dict[str, Any] = {
        "session_id": CLOCK.new_id("ses"),
        "title": "",
        "model": "",
        "system_prompt": "",
        "metadata": {},
        "labels": {},
        "archived": False,
        "request": None,
        "hash_key": KEY,
        "now": CLOCK.now(),
    }
    return await database.write(create_session, scope, **(values | fields))


def new_message(session_id: str, text: str = "Hello", **fields: Any) -> Message:
    """Returns a user's message without storing it."""
    values: dict[str, Any] = {
        "message_id": CLOCK.new_id("msg"),
        "session_id": session_id,
        "parent_message_id": None,
        "role": Role.USER,
        "content": (TextBlock(text),),
        "turn_id": CLOCK.new_id("turn"),
        "creator": "alice",
        "model": "",
        "usage": None,
        "create_time": CLOCK.now(),
    }
    return Message(**(values | fields))


async def stored_message(
    database: Database, session_id: str, text: str = "Hello", *, scope: Scope = ACME, **fields: Any
) -> Message:
    """Stores a message without a turn, by default in the vault `acme`."""
    message = new_message(session_id, text, **fields)
    await database.write(create_message, scope, message=message)
    return message


async def new_turn(
    database: Database, session_id: str, text: str = "Hello", *, scope: Scope = ACME, **fields: Any
) -> Turn:
    """Stores a message and its running turn, by default in the vault `acme`. Also takes fields of GenerationOptions."""
    names = {field.name for field in dataclasses.fields(GenerationOptions)} & fields.keys()
    options = {name: fields.pop(name) for name in names}
    values: dict[str, Any] = {
        "message": new_message(session_id, text),
        "uploads": (),
        "parent": None,
        "options": GenerationOptions(**options),
        "labels": {},
        "terms": TERMS,
        "request": None,
    }
    return await database.write(create_turn, scope, **(values | fields))


async def append(database: Database, turn: Turn, *texts: str, first: int = 2) -> None:
    """Appends deltas of block 0, starting at sequence `first`."""
    deltas = [TextDelta(turn.turn_id, sequence, 0, text) for sequence, text in enumerate(texts, first)]
    await database.write(append_events, ACME, events=deltas)


async def finish(database: Database, turn: Turn, **fields: Any) -> TurnFinished:
    """Ends a turn, as COMPLETED by default."""
    values: dict[str, Any] = {
        "turn": turn,
        "events": (),
        "closed": {},
        "status": TurnStatus.COMPLETED,
        "stop_reason": None,
        "usage": Usage(),
        "model_calls": 1,
        "error": None,
        "reply_message_id": CLOCK.new_id("msg"),
        "now": CLOCK.now(),
    }
    return await database.write(finish_turn, ACME, **(values | fields))


async def erase_next(database: Database) -> bool:
    """Runs the next step of erasing what was deleted. Returns False if nothing is left."""
    erasure = await database.read_system(find_erasure, server_scope(), after="", now=2**62)
    if erasure is None:
        return False
    scope = server_scope(erasure.vault_id)
    parts = await database.read(read_part, scope, erasure=erasure)
    await database.write(erase_step, scope, erasure=erasure, parts=parts, now=erasure.due_time)
    return True


async def erase(database: Database) -> int:
    """Erases what was deleted. Returns the number of steps."""
    steps = 0
    while await erase_next(database):
        steps += 1
    return steps
