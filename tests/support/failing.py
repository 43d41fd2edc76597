"""Failures at random, with secrets wherever an exception, a call or a log line can carry them.

`python -m tests.support.failing DSN` provokes `FAILURES` in a server and beside it, and reports them to Sentry, with
`--careless` as its SDK does by itself. Each failure has a marker that is part of all its secrets.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import sentry_sdk
import structlog
from metamorph_client.chat.v1.chat_service_pb2 import DeleteSessionRequest, GetSessionRequest
from metamorphd.errors import RequestInvalid, SessionNotFound
from metamorphd.models.caller import Scope
from metamorphd.observe import configure_logging
from metamorphd.reports.sentry import Reports
from metamorphd.store.database import Database
from metamorphd.store.turns.prompt import get_prompt
from pydantic import TypeAdapter, ValidationError
from sentry_sdk.utils import event_from_exception
from structlog.typing import EventDict

from tests.support.caller import Caller
from tests.support.engines import ENGINES
from tests.support.serving import serving
from tests.support.tokens import mint

FAILURES = 1_000
# Fewer than the queue of events takes.
BATCH = 40
# They have a session and a turn each, which takes longer.
TURNS = 100

NUMBER = TypeAdapter(int)


def markers(count: int = FAILURES) -> list[str]:
    """Returns the markers of the failures, the same each time."""
    chosen = random.Random(7)  # noqa: S311, not a secret
    return [f"{chosen.getrandbits(96):024x}" for _ in range(count)]


def secrets_of(marker: str) -> list[str]:
    """Returns a key, a token, an address and a message's text."""
    return [
        f"sk-ant-api03-{marker}",
        f"eyJhbGciOiJIUzI1NiJ9.{marker}.{marker}",
        f"{marker}@example.com",
        f"Please tell nobody about {marker}, will you?",
    ]


class Odd(Exception):
    """An exception that keeps things, and whose text cannot be had."""

    def __init__(self, kept: object) -> None:
        super().__init__(kept)
        self.kept = kept

    def __str__(self) -> str:
        raise RuntimeError(self.kept)


def random_error(marker: str, chosen: random.Random, depth: int = 0) -> Exception:
    """Returns an exception that was raised, with secrets in its arguments, notes, causes, context or group."""
    secret = chosen.choice(secrets_of(marker))
    makes: list[Callable[[], Exception]] = [
        lambda: ValueError(secret),
        lambda: RuntimeError("cannot", {"text": [secret, secret.encode()]}),
        lambda: KeyError(secret),
        lambda: OSError(28, secret, f"/tmp/{secret}"),  # noqa: S108, a name only
        lambda: OSError(secret, secret),
        lambda: UnicodeDecodeError("utf-8", secret.encode(), 0, 1, secret),
        lambda: json.JSONDecodeError(secret, secret, 0),
        lambda: Odd(secret),
        lambda: _invalid(secret),
    ]
    if depth > 0:
        # By themselves they are refusals, and no errors of the server.
        makes += [lambda: SessionNotFound(session_id=secret), lambda: RequestInvalid(field=secret)]
    if depth < 3:
        inner = [random_error(marker, chosen, depth + 1) for _ in range(chosen.randint(1, 3))]
        makes += [lambda: ExceptionGroup(secret, inner)] * 3
    made = chosen.choice(makes)()
    if chosen.random() < 0.3:
        made.add_note(secret)
    return _raised(made, marker, chosen, depth)


def _invalid(secret: str) -> Exception:
    try:
        NUMBER.validate_python(secret)
    except ValidationError as exc:
        return exc
    raise AssertionError


def _raised(made: Exception, marker: str, chosen: random.Random, depth: int) -> Exception:
    """Returns it with a trace whose frames have secrets in their variables, perhaps with a cause or a context."""
    key, token, email, text = secrets_of(marker)
    link = chosen.random() if depth < 3 else 1.0
    try:
        if link < 0.3:
            raise made from random_error(marker, chosen, depth + 1)
        if link < 0.6:
            try:
                raise random_error(marker, chosen, depth + 1)
            except Exception:
                raise made  # noqa: B904, the context is what is wanted
        raise made
    except Exception as exc:
        assert key != token != email != text
        return exc


class Failing:
    """Makes operations of a database for tenants fail with `failure`; if `prompts_only`, those that read a prompt."""

    def __init__(self, database: Database) -> None:
        self.failure: Exception | None = None
        self.prompts_only = False
        self._read, self._write = database.read, database.write
        vars(database).update(read=self.read, write=self.write)

    async def read(self, operation: Any, scope: Scope, /, *args: Any, **kwargs: Any) -> Any:
        if self.failure is not None and (not self.prompts_only or operation is get_prompt):
            raise self.failure
        return await self._read(operation, scope, *args, **kwargs)

    async def write(self, operation: Any, scope: Scope, /, *args: Any, **kwargs: Any) -> Any:
        if self.failure is not None and not self.prompts_only:
            raise self.failure
        return await self._write(operation, scope, *args, **kwargs)


async def calls_fail(channel: grpc.aio.Channel, database: Failing, marks: list[str], chosen: random.Random) -> None:
    """Makes a call for each mark, whose id, title, texts and token have secrets, and which fails in the store."""
    for mark in marks:
        key, _, email, text = secrets_of(mark)
        caller = Caller(channel, [("authorization", f"Bearer {mint(user=mark, email=email)}"), ("x-request-id", key)])
        database.failure = random_error(mark, chosen)
        with contextlib.suppress(grpc.aio.AioRpcError):
            match chosen.randrange(4):
                case 0:
                    await caller.chat.GetSession(GetSessionRequest(session_id=key), metadata=caller.metadata)
                case 1:
                    await caller.chat.DeleteSession(DeleteSessionRequest(session_id=key), metadata=caller.metadata)
                case 2:
                    await caller.create_session(title=text)
                case _:
                    await caller.send(key, text)
            raise AssertionError("the call did not fail")
        database.failure = None


async def turns_fail(alice: Caller, database: Failing, marks: list[str], chosen: random.Random) -> None:
    """Begins a turn for each mark, which fails when the prompt is read."""
    for mark in marks:
        session = await alice.create_session()
        database.failure, database.prompts_only = random_error(mark, chosen), True
        await alice.send(session.session_id, secrets_of(mark)[-1])
        database.failure, database.prompts_only = None, False


async def parts_fail(marks: list[str], chosen: random.Random) -> None:
    """Logs an error for each mark: as our parts do, as libraries do, and as a task does that nobody waits for."""
    ours = structlog.get_logger("metamorphd.part")
    for mark in marks:
        key, token, email, text = secrets_of(mark)
        error = random_error(mark, chosen)
        match chosen.randrange(4):
            case 0:
                ours.error("a part failed", vaultId=email, token=token, call_id=key, exc_info=error)
            case 1:
                try:
                    raise error
                except Exception:
                    logging.getLogger("a.library").exception("cannot send %s to %s", text, email)
            case 2:
                logging.getLogger("a.library").error(text)
            case _:
                asyncio.get_running_loop().call_soon(_raise, error)
                await asyncio.sleep(0)


def _raise(error: Exception) -> None:
    raise error


class Careless:
    """Reports as the SDK does by itself."""

    def __init__(self, dsn: str) -> None:
        self._client = sentry_sdk.Client(dsn=dsn, default_integrations=False)

    def __call__(self, _logger: Any, _method: str, line: EventDict) -> EventDict:
        given = line.get("exc_info")
        error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
        if error is not None:
            event, hint = event_from_exception(error, client_options=self._client.options)
            self._client.capture_event(event, hint)
        return line

    def close(self) -> None:
        self._client.close(timeout=10)


def _reporter(dsn: str, *, careless: bool) -> Reports | Careless:
    if careless:
        return Careless(dsn)
    # A minute passes between any two errors, so that none is left out.
    return Reports(dsn=dsn, environment="test", release="1", now=itertools.count(0, 61).__next__)


async def main(dsn: str, *, careless: bool) -> None:
    """Provokes the failures, or, if `careless`, one batch of each kind."""
    reporters = [_reporter(dsn, careless=careless)]

    def watch(logger: Any, method: str, line: EventDict) -> EventDict:
        return reporters[-1](logger, method, line)

    configure_logging("info", watch)
    chosen = random.Random(8)  # noqa: S311, not a secret
    with tempfile.TemporaryDirectory() as directory:
        whole = ENGINES[0].database(Path(directory))
        database = Failing(whole)
        async with serving(Path(directory), database=whole, log_level="info") as running:
            alice = running.caller()
            for kind, marks in _batches(1 if careless else None):
                match kind:
                    case "turns":
                        await turns_fail(alice, database, marks, chosen)
                    case "calls":
                        await calls_fail(alice.channel, database, marks, chosen)
                    case "parts":
                        await parts_fail(marks, chosen)
                await asyncio.to_thread(reporters[-1].close)
                reporters.append(_reporter(dsn, careless=careless))
    reporters[-1].close()


def _batches(most: int | None) -> Iterator[tuple[str, list[str]]]:
    """Yields kinds of failures with the marks of a batch, at most `most` batches of a kind."""
    marks = markers()
    kinds = {"turns": marks[:TURNS], "calls": marks[TURNS : FAILURES // 2], "parts": marks[FAILURES // 2 :]}
    for kind, its in kinds.items():
        for begin in range(0, len(its), BATCH)[:most]:
            yield kind, its[begin : begin + BATCH]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], careless="--careless" in sys.argv))
