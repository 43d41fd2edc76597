"""The narrow waist: what an operation may ask of a database, and how it is called.

An operation is one coroutine over a transaction that awaits nothing but the transaction. It may be run more than once,
so time and ids are arguments and nothing but the transaction is changed. The database decides where it runs.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from prometheus_client.registry import Collector

from metamorphd.chain import Chain, Head
from metamorphd.models.backup import Inspection
from metamorphd.models.caller import Scope
from metamorphd.models.span import Span, SpanKind
from metamorphd.models.store_check import StoreCheck
from metamorphd.telemetry.attributes import of_operation

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# Is called with the share that is done, from 0 to 1.
Progress = Callable[[float], None]

# Is called with a vault and its revision.
Listener = Callable[[str, int], None]

SqlValue = None | int | float | str | bytes | memoryview


class Row(Protocol):
    """A row. Its columns are attributes, by the names that the statement gives them."""

    def __getattr__(self, column: str, /) -> Any: ...


class Statements(ABC):
    """Runs SQL for `scope`. Parameters are `:name`, given by keyword."""

    __slots__ = ()

    scope: Scope

    @abstractmethod
    async def one(self, sql: str, /, **parameters: SqlValue) -> Row | None:
        """The first row, or None."""

    @abstractmethod
    async def all(self, sql: str, /, **parameters: SqlValue) -> list[Row]:
        """Every row."""

    @abstractmethod
    async def run(self, sql: str, /, **parameters: SqlValue) -> int:
        """How many rows were inserted, updated or deleted."""


class Transaction(Statements):
    """Bound to its scope's vault: it supplies `:vault_id` itself."""

    __slots__ = ()

    chain: Chain
    """Authenticates what the operation appends to the vault's log."""

    @property
    @abstractmethod
    def head(self) -> Head | None:
        """The end of the vault's log, once the operation has appended to it. Set by `append_change` alone."""

    @head.setter
    @abstractmethod
    def head(self, head: Head | None, /) -> None: ...


class SystemTransaction(Statements):
    """Sees every vault. Only for the operations that the allow-list test names."""

    __slots__ = ()


Operation = Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]]
SystemOperation = Callable[Concatenate[SystemTransaction, P], Coroutine[Any, Any, T]]


class Database(Protocol):
    """A store that runs operations, each in one transaction, between entering and leaving it as a context.

    Entering opens the store and applies the missing migrations; raises StartupRefused. Leaving finishes the operations
    that were begun. Outside of that, all methods raise StoreNotReady. An operation that raises stores nothing.

    Each operation has a span, from being asked for to its answer, within that of its scope.

    Operations are isolated by snapshot: each reads the store as it was at one moment, and of two that write the same
    row at the same time, one is repeated. See docs/decisions/0025 for what operations do to conflict.
    """

    engine: str
    """`sqlite`."""

    exclusive: bool
    """Whether no other server can have this store open."""

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Figures for metrics: by name, what each is and how it is read. Names begin with `metamorph_`."""

    @property
    def collectors(self) -> Iterable[Collector]:
        """Metrics that are more than a figure. Names begin with `metamorph_`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def failing(self) -> str | None:
        """Returns a check that fails, or None.

        `store` if the store cannot be read, `damaged` if `check` has found faults, `write` if it cannot be written.
        Answers within a few seconds, and logs the error.
        """

    async def checks(self) -> Mapping[str, bool]:
        """Returns whether each check passes: those of `failing`, and `disk` if there is space to store more.

        Answers like `failing`.
        """

    def locked_by(self) -> str | None:
        """Returns another program that keeps the store from being written, or None if none is known. Blocks."""

    @property
    def clean(self) -> bool:
        """Whether the store had been closed properly when it was opened. A new one had."""

    async def failed(self) -> None:
        """Returns once the store can never be written again, so that the process must end."""

    async def read(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a tenant operation that changes nothing, on one snapshot. It may stop when the caller is cancelled.

        Raises StoreBusy when too many reads of this vault or of all vaults wait, and when it takes too long
        OperationTimeout, or SearchTooBroad for a `search_read`.
        """

    async def write(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a tenant operation; returns once it is durable. When the caller is cancelled it may still commit.

        Raises StoreBusy when too many writes of this vault or of all vaults wait, OperationTimeout when it takes too
        long, StorageFull when the volume is full, and VaultSuspended or VaultDeleted for a caller of such a vault,
        unless the operation `concludes`. In each case nothing is stored.
        """

    def listen(self, listener: Listener, /) -> None:
        """Has one listener called on the event loop after each commit, once for each operation that appended changes.

        In the order of commits. It must not block. Nothing is reported of what is rolled back.
        """

    def require_space(self) -> None:
        """Raises StorageFull if the volume has so little space left that operations marked `grows` are refused."""

    def fits(self, directory: Path, size: int, /) -> bool:
        """Returns whether a file of `size` bytes fits in a directory, and calls that store more are still accepted.

        Blocks.
        """

    async def read_system(
        self, operation: SystemOperation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, across vaults."""

    async def write_system(
        self, operation: SystemOperation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, across vaults."""

    async def maintain(self) -> bool:
        """Does a step of the work that this engine has apart from operations. Returns whether there may be more."""

    async def check(self) -> bool:
        """Does a step of checking the store for damage, if that is due. Returns whether there is more."""

    @property
    def checked(self) -> StoreCheck:
        """The result of `check` so far."""

    async def copy(self, path: Path, /, *, progress: Progress) -> None:
        """Copies the store to a new file, as it is at the end, while operations go on. The file is durable then.

        Raises StorageFull, StoreNotReady, and StoreBusy if it had to begin again too often. It leaves no file then, nor
        when the caller is cancelled.
        """

    def inspect(self, path: Path, /, *, stopped: threading.Event) -> Inspection:
        """Reads all of a copy, and returns what is in it. Blocks. Raises StoreNotReady once `stopped` is set."""

    async def versions(self) -> tuple[str, int]:
        """Returns the engine's version and the newest migration that is applied."""


def span_of(engine: str, operation: Callable[..., Any], scope: Scope) -> Span:
    """Begins the span of an operation. It has the operation's name, and no parameters, which are content."""
    if not scope.span.recorded:
        return scope.span
    name = operation.__name__
    return scope.span.child(name, kind=SpanKind.CLIENT, attributes=of_operation(engine, name))


_point_reads: set[Callable[..., Any]] = set()


def point_read(operation: F) -> F:
    """Marks an operation that reads by full primary keys, so briefly that a thread hop would cost more than it."""
    _point_reads.add(operation)
    return operation


def is_point_read(operation: Callable[..., Any]) -> bool:
    """Whether an operation was marked with `point_read`."""
    return operation in _point_reads


_search_reads: set[Callable[..., Any]] = set()


def search_read(operation: F) -> F:
    """Marks an operation whose cost depends on what is searched for. Other reads never wait for it."""
    _search_reads.add(operation)
    return operation


def is_search_read(operation: Callable[..., Any]) -> bool:
    """Whether an operation was marked with `search_read`."""
    return operation in _search_reads


_concluding: set[Callable[..., Any]] = set()


def concludes(operation: F) -> F:
    """Marks an operation that ends what has begun. It runs whatever the state of the vault.

    All others of a vault's callers are refused while the vault is suspended or deleted.
    """
    _concluding.add(operation)
    return operation


def is_concluding(operation: Callable[..., Any]) -> bool:
    """Returns whether an operation was marked with `concludes`."""
    return operation in _concluding


_growing: set[Callable[..., Any]] = set()


def grows(operation: F) -> F:
    """Marks an operation that a caller can make the store grow with. It is refused when the volume is almost full.

    Operations that delete, or that end what has begun, are not marked.
    """
    _growing.add(operation)
    return operation


def is_growing(operation: Callable[..., Any]) -> bool:
    """Returns whether an operation was marked with `grows`."""
    return operation in _growing
