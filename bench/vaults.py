"""Part (v): what a vault's secrets, memories and log cost by how much all vaults store, on two files, in turns."""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from metamorph.vault.v1.vault_service_pb2 import (
    GetSecretRequest,
    GetVaultRequest,
    SearchMemoriesRequest,
    WatchVaultRequest,
)
from metamorph.vault.v1.vault_service_pb2_grpc import VaultServiceStub
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


OPERATIONS = (
    Operation("GetSecret", _get_secret, most=MOST_CALLS),
    Operation("SearchMemories by a word of one memory", _search((), own=True), most=MOST_CALLS),
    Operation("SearchMemories by two words of most memories", _search(COMMON_WORDS), most=MOST_CALLS),
    Operation("SearchMemories by ten words", _search(WORDS, own=True), most=MOST_CALLS),
    Operation(f"WatchVault of the newest {NEWEST_CHANGES} changes, first answer", _watch, most=MOST_CALLS),
)
STEPS = len(OPERATIONS)


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


@contextmanager
def _copy(file: Path) -> Iterator[Path]:
    """Yields a copy of a file, since reading a secret changes the vault's log."""
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        yield Path(shutil.copyfile(file, Path(directory) / file.name))


@contextmanager
def _side(layout: VaultsLayout, file: Path) -> Iterator[Caller]:
    with sized_service(file, TOKEN_ENCRYPTION_KEY=KEY) as server, grpc.insecure_channel(server.target) as channel:
        yield Caller(layout, channel)
