"""Long work that goes on without the call that began it, and that callers can follow and cancel (AIP-151)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import (
    DomainError,
    Internal,
    OperationCancelled,
    OperationInterrupted,
    OperationNotCancellable,
)
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.operation import RESUMABLE, Failure, Operation, OperationKind, Progress
from metamorphd.models.page import Page
from metamorphd.models.span import NOT_RECORDED
from metamorphd.store.database import Database
from metamorphd.store.operations import (
    begin_operation,
    end_operation,
    find_running_operation,
    get_operation,
    list_all_operations,
    list_operations,
    list_running_operations,
)

# Read at a time when the server starts.
STEP_OPERATIONS = 100

logger = structlog.get_logger(__name__)


class Running:
    """An operation that this server does. As a context, it ends with it, and fails with what is raised.

    What the vault's log has of it names who began it, and of its end who cancelled it. It is `decided` if what it does
    is not taken back: then it cannot be cancelled, and the last step of its work stores its end, after a restart too.
    """

    def __init__(
        self, operations: "Operations", scope: Scope, operation: Operation, *, cancel: Callable[[], object] | None
    ) -> None:
        self._operations = operations
        self._scope = scope
        self._cancel = cancel
        self._counts: Mapping[str, int] = {}
        self.operation = operation
        self._canceller: Scope | None = None
        self.decided = False

    def advance(self, done: int, *, total: int | None = None) -> None:
        """Sets how far it is. A total of None stays as it is."""
        before = self.operation.progress
        self.operation = replace(
            self.operation, progress=Progress(done, before.total if total is None else total, before.unit)
        )

    def count(self, **counts: int) -> None:
        """Sets its result."""
        self._counts = counts

    def cancel(self, scope: Scope) -> None:
        """Asks for its end, for the scope's actor. May be called more than once. Raises OperationNotCancellable."""
        if self._cancel is None or self.decided:
            raise OperationNotCancellable(operation_id=self.operation.operation_id)
        if self._canceller is None:
            self._canceller = scope.within(NOT_RECORDED)
            self._cancel()

    async def end(self, failure: Failure | None = None) -> None:
        """Stores its end, as `Operations.end` does. It succeeded if `failure` is None."""
        scope = self._scope if failure is None else self._canceller or self._scope
        await self._operations.end(scope, self.operation, failure=failure, counts=self._counts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.decided:
            self._operations.leave(self.operation)
            return
        # Shielded: that the work was cancelled must not keep its end from being stored.
        await asyncio.shield(self.end(None if exc is None else self._failure(exc)))

    def _failure(self, exc: BaseException) -> Failure:
        known: DomainError
        if self._canceller is not None:
            known = OperationCancelled()
        elif isinstance(exc, DomainError):
            known = exc
        elif isinstance(exc, asyncio.CancelledError):
            known = OperationInterrupted()
        else:
            known = Internal()
        return failure_of(known)


def failure_of(error: DomainError) -> Failure:
    """Returns an error as the failure of an operation."""
    return Failure(error.reason_name(), str(error))


def _warn(operation_id: str, error: Exception) -> None:
    logger.warning(
        "the end of an operation was not stored; trying again",
        operation_id=operation_id,
        error=str(error),
        exc_info=not isinstance(error, DomainError),
    )


class Operations:
    """The operations of vaults and of the server. Those that this server does are known with how far they are."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._running: dict[str, Running] = {}
        # What stores an end, by operation, while the store has not taken it.
        self._unstored: dict[str, Callable[[], Awaitable[None]]] = {}

    def new(
        self, scope: Scope, kind: OperationKind, *, target: str = "", unit: str = "percent", total: int = 100
    ) -> Operation:
        """Returns an operation for the scope's vault and actor that is not stored yet."""
        return Operation(
            operation_id=self._clock.new_id("op"),
            vault_id=scope.vault_id,
            kind=kind,
            target=target,
            creator=scope.actor.user_id,
            progress=Progress(0, total, unit),
            create_time=self._clock.now(),
        )

    async def begin(self, scope: Scope, operation: Operation, *, cancel: Callable[[], object] | None = None) -> Running:
        """Stores an operation that begins here. `cancel` asks its work for an end; None if that cannot be cancelled.

        Raises TooManyOperations.
        """
        stored = await self._database.write(begin_operation, scope, operation=operation)
        return self._run(scope, stored, cancel=cancel)

    async def resume(self, scope: Scope, kind: OperationKind) -> Running | None:
        """Returns the operation of the scope's vault of a resumable kind that goes on, to be ended here, or None."""
        found = await self._database.read(find_running_operation, scope, kind=kind)
        return None if found is None else self._running.get(found.operation_id) or self._run(scope, found, cancel=None)

    def _run(self, scope: Scope, operation: Operation, *, cancel: Callable[[], object] | None) -> Running:
        # Not within the span of the call, which ends before.
        running = Running(self, scope.within(NOT_RECORDED), operation, cancel=cancel)
        self._running[operation.operation_id] = running
        return running

    async def end(
        self, scope: Scope, operation: Operation, *, failure: Failure | None, counts: Mapping[str, int]
    ) -> None:
        """Stores the end of an operation, with how far it was. If the store does not take it, `work` does it again."""
        operation_id, progress = operation.operation_id, operation.progress
        if failure is None and progress.total:
            progress = replace(progress, done=progress.total)

        async def store() -> None:
            await self._database.write(
                end_operation,
                scope,
                operation_id=operation_id,
                progress=progress,
                failure=failure,
                counts=counts,
                now=self._clock.now(),
            )
            self._unstored.pop(operation_id, None)
            self._running.pop(operation_id, None)

        try:
            await store()
        except Exception as exc:
            self._unstored[operation_id] = store
            _warn(operation_id, exc)

    def leave(self, operation: Operation) -> None:
        """Forgets an operation whose end is stored elsewhere."""
        self._running.pop(operation.operation_id, None)

    async def work(self) -> None:
        """Stores the ends that the store has not taken."""
        for operation_id, store in list(self._unstored.items()):
            try:
                await store()
            except Exception as exc:
                # Those of other vaults do not wait for it.
                _warn(operation_id, exc)

    async def get(self, scope: Scope, operation_id: str) -> Operation:
        """Returns an operation of the scope's vault as it is now. Raises OperationNotFound."""
        return self._as_it_is(await self._database.read(get_operation, scope, operation_id=operation_id))

    async def list(self, scope: Scope, *, after: str, page_size: int) -> Page[Operation]:
        """Returns operations of the scope's vault, newest first, from the one before `after` on."""
        page = await self._database.read(list_operations, scope, after=after, page_size=page_size)
        return replace(page, items=tuple(map(self._as_it_is, page.items)))

    async def list_all(self, scope: Scope, *, after: str, page_size: int) -> Page[Operation]:
        """Returns operations of all vaults and of the server, as `list` does."""
        page = await self._database.read_system(list_all_operations, scope, after=after, page_size=page_size)
        return replace(page, items=tuple(map(self._as_it_is, page.items)))

    async def cancel(self, scope: Scope, operation_id: str) -> Operation:
        """Asks for the end of an operation of the scope's vault, for its actor, and returns it as it is now.

        Does nothing to one that has ended. Raises OperationNotFound, OperationNotCancellable.
        """
        found = await self.get(scope, operation_id)
        if found.end_time is None and operation_id not in self._unstored:
            running = self._running.get(operation_id)
            if running is None:
                raise OperationNotCancellable(operation_id=operation_id)
            running.cancel(scope)
        return found

    async def recover(self) -> None:
        """Ends the operations that were lost with an earlier server."""
        after = ("", "")
        while found := await self._database.read_system(
            list_running_operations, server_scope(), after=after, limit=STEP_OPERATIONS
        ):
            for operation in found:
                if operation.kind not in RESUMABLE and operation.operation_id not in self._running:
                    failure = failure_of(OperationInterrupted())
                    await self.end(server_scope(operation.vault_id), operation, failure=failure, counts={})
            after = (found[-1].vault_id, found[-1].operation_id)

    def _as_it_is(self, stored: Operation) -> Operation:
        running = self._running.get(stored.operation_id)
        if running is None or stored.end_time is not None:
            return stored
        return replace(stored, progress=running.operation.progress)
