"""The narrow waist: what an operation may ask of a database, and how it is called.

An operation is one coroutine over a transaction that awaits nothing but the transaction. It may be run more than once,
so time and ids are arguments and nothing but the transaction is changed. The database decides where it runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

SqlValue = None | int | float | str | bytes
Row = tuple[Any, ...]


class Statements(ABC):
    """Runs SQL. Parameters are `:name`, given by keyword."""

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
    """Bound to one vault: it supplies `:vault_id` itself."""


class SystemTransaction(Statements):
    """Sees every vault. For the operations that the allow-list test names, nobody else."""


Operation = Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]]
SystemOperation = Callable[Concatenate[SystemTransaction, P], Coroutine[Any, Any, T]]


class Database(Protocol):
    """A store that runs operations, each in one transaction.

    All four raise StoreNotReady before `open` and after `close`, and what the operation raises; then nothing is stored.
    """

    engine: str
    """`sqlite`."""

    async def open(self) -> None:
        """Opens the store and applies what migrations are missing. Raises StartupRefused."""

    async def close(self) -> None:
        """Finishes what was begun, then closes."""

    async def read(self, operation: Operation[P, T], vault_id: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a tenant operation that changes nothing, on one snapshot."""

    async def write(self, operation: Operation[P, T], vault_id: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a tenant operation; returns once it is durable. When the caller is cancelled it may still commit.

        Raises StoreBusy when too many writes wait, StorageFull when the volume is full.
        """

    async def read_system(self, operation: SystemOperation[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, across vaults."""

    async def write_system(self, operation: SystemOperation[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, across vaults."""

    async def versions(self) -> tuple[str, int]:
        """The engine's version and the newest migration that is applied."""


_point_reads: set[Callable[..., Any]] = set()


def point_read(operation: F) -> F:
    """Marks an operation that reads by full primary keys, so briefly that a thread hop would cost more than it."""
    _point_reads.add(operation)
    return operation


def is_point_read(operation: Callable[..., Any]) -> bool:
    """Whether an operation was marked with `point_read`."""
    return operation in _point_reads
