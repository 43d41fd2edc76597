"""Part (v): what a vault's secrets, memories and log cost by how much all vaults store, on two files, in turns."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1.vault_service_pb2 import (
    GetSecretRequest,
    GetVaultRequest,
    SearchMemoriesRequest,
    WatchVaultRequest,
)
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub
from rich.progress import Progress

from bench.figure import Figure
from bench.operations import Call, Operation, timed
from bench.processes import sized_service, token
from bench.sizes import compared, measured
from tests.support.generated.corpus import COMMON_WORDS, word
from tests.support.generated.files import FILES
from tests.support.generated.vaults import KEY, VaultsLayout, file_of, secret_name, vault_id

SMALL, LARGE = VaultsLayout(vaults=1_000, rows=10_000), VaultsLayout(vaults=1_000, rows=1_000_000)
SEED = 11
ROUNDS = 5
MOST_CALLS = 400
# Answers of one size, whatever a log has.
NEWEST_CHANGES = 5
# Messages that are answered with memories, and without.
RECALLS, RECALL_TOKENS = 100, 2_000
# Of an operation, both files together.
SECONDS = 10.0
# Common ones and rarer ones.
WORDS = [word(rank) for rank in (0, 1, 5, 20, 50, 200, 500, 1_000, 5_000)]
PERMISSIONS = ["read", "write", "secrets:read", "secrets:write"]


class Caller:
    """Calls a server on a file, each time as a user of another vault, about another of its rows."""

    def __init__(self, layout: VaultsLayout, channel: grpc.Channel) -> None:
        self._layout = layout
        # Untyped, because the generated stubs are those of grpc.aio.
        self.vault: Any = VaultServiceStub(channel)
        self.chat: Any = ChatServiceStub(channel)
        order = random.Random(SEED)  # noqa: S311, not a secret
        self._places = [
            (order.randrange(layout.vaults), order.randrange(layout.rows_of_vault)) for _ in range(ROUNDS * MOST_CALLS)
        ]
        tokens = {vault: token(vault_id(vault), permissions=PERMISSIONS) for vault, _ in self._places}
        self._metadata = {vault: (("authorization", f"Bearer {text}"),) for vault, text in tokens.items()}

    def place(self, number: int) -> tuple[int, Any]:
        """Returns the number of a row in its vault, and the metadata of calls in that vault."""
        vault, row = self._places[number % len(self._places)]
        return row, self._metadata[vault]


def _get_secret(caller: Caller) -> Call:
    def get(number: int) -> float:
        row, metadata = caller.place(number)
        return timed(caller.vault.GetSecret, GetSecretRequest(name=secret_name(row)), metadata)

    return get


def _search(words: Sequence[str], *, own: bool = False) -> Callable[[Caller], Call]:
    """Searches for words, and for one that a single memory has if `own`."""

    def ready(caller: Caller) -> Call:
        def search(number: int) -> float:
            row, metadata = caller.place(number)
            query = " ".join([*words, f"m{row}"] if own else words)
            return timed(caller.vault.SearchMemories, SearchMemoriesRequest(query=query), metadata)

        return search

    return ready


def _watch(caller: Caller) -> Call:
    def watch(number: int) -> float:
        _, metadata = caller.place(number)
        newest = caller.vault.GetVault(GetVaultRequest(), metadata=metadata).revision
        request = WatchVaultRequest(after_revision=newest - NEWEST_CHANGES)

        def first(request: WatchVaultRequest, **call: Any) -> None:
            changes = caller.vault.WatchVault(request, **call)
            next(changes)
            changes.cancel()

        return timed(first, request, metadata)

    return watch


def _first_delta(caller: Caller, number: int, *, recall_tokens: int) -> float:
    """Returns the seconds from a message to the first delta of its reply, in a new session."""
    row, metadata = caller.place(number)
    session = pb.CreateSessionRequest(session=Session(title="Set", recall_tokens=recall_tokens))
    session_id = caller.chat.CreateSession(session, metadata=metadata).session.session_id
    text = ContentBlock(text=TextBlock(text=" ".join([*WORDS, f"m{row}"])))
    request = pb.SendMessageRequest(
        session_id=session_id, content=[text], options=GenerationOptions(max_output_tokens=1)
    )
    began, first = time.perf_counter(), 0.0
    for response in caller.chat.SendMessage(request, metadata=metadata):
        if response.event.HasField("text_delta") and not first:
            first = time.perf_counter() - began
    return first


def _later(caller: Caller) -> Figure:
    """Compares the first delta of messages with memories and without, in turns."""
    seconds: dict[int, list[float]] = {0: [], RECALL_TOKENS: []}
    for number in range(RECALLS):
        for tokens, found in seconds.items():
            found.append(_first_delta(caller, number, recall_tokens=tokens))
    without, recalling = (median(each) * 1e3 for each in seconds.values())
    later = recalling - without
    name = f"(v) first delta with memories, {RECALL_TOKENS:,} tokens, p50; reference: without"
    return Figure(name, f"{recalling:.1f} ms", f"{without:.1f} ms", f"{later:+.1f} ms", "≤ 5 ms later", later <= 5)


OPERATIONS = (
    Operation("GetSecret", _get_secret, most=MOST_CALLS),
    Operation("SearchMemories by a word of one memory", _search((), own=True), most=MOST_CALLS),
    Operation("SearchMemories by two words of most memories", _search(COMMON_WORDS), most=MOST_CALLS),
    Operation("SearchMemories by ten words", _search(WORDS, own=True), most=MOST_CALLS),
    Operation(f"WatchVault of the newest {NEWEST_CHANGES} changes, first answer", _watch, most=MOST_CALLS),
)
STEPS = len(OPERATIONS) + 1


class Vaults:
    """Measures each operation on both files, which take turns call by call; the ratio is the median of the rounds'."""

    def __init__(
        self,
        layouts: Sequence[VaultsLayout] = (SMALL, LARGE),
        *,
        progress: Progress,
        step: Callable[[str], None],
        files: Path = FILES,
        rounds: int = ROUNDS,
    ) -> None:
        self._layouts = layouts
        self._progress = progress
        self._step = step
        self._files = files
        self._rounds = rounds

    def figures(self) -> Iterator[Figure]:
        """Yields the figures. Files are generated if they are not there."""
        with ExitStack() as stack:
            files = [stack.enter_context(_copy(file_of(each, self._files, self._progress))) for each in self._layouts]
            about = [
                f"{layout.rows:,} of each in {layout.vaults:,} vaults, {file.stat().st_size / 1e9:.2f} GB"
                for layout, file in zip(self._layouts, files, strict=True)
            ]
            yield Figure("(v) ours: the large file; reference: the small one", about[1], about[0])
            sides = [
                stack.enter_context(_side(layout, file)) for layout, file in zip(self._layouts, files, strict=True)
            ]
            for operation in OPERATIONS:
                self._step(operation.name)
                rounds = measured(operation, self._rounds, [operation.ready(side) for side in sides], seconds=SECONDS)
                yield compared(f"(v) {operation.name}", *rounds, most_ms=None)
            self._step("first delta with memories")
            yield _later(sides[-1])


@contextmanager
def _copy(file: Path) -> Iterator[Path]:
    """Yields a copy of a file, since reading a secret changes the vault's log."""
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        yield Path(shutil.copyfile(file, Path(directory) / file.name))


@contextmanager
def _side(layout: VaultsLayout, file: Path) -> Iterator[Caller]:
    with sized_service(file, TOKEN_ENCRYPTION_KEY=KEY) as server, grpc.insecure_channel(server.target) as channel:
        yield Caller(layout, channel)
