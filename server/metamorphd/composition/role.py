"""The role of a server: the primary, or one that only reads copies of a primary's database."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from metamorphd.audit.recording import Recorder
from metamorphd.backups.backups import Backups
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.composition.primary import PrimaryRole
from metamorphd.composition.read_only import ReadOnlyRole
from metamorphd.edge.guards import Guard
from metamorphd.edge.operator_reads import OperatorReads
from metamorphd.edge.refusals import Refusals
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.leaving.erasure_ledger import ErasureLedger
from metamorphd.memories.memories import Memories
from metamorphd.metrics import Figures
from metamorphd.models.finding import Finding
from metamorphd.operations import Operations
from metamorphd.secrets.rotation import Rotation
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports
from metamorphd.vault_states import VaultStates


class Role(Protocol):
    """All in which servers of one role differ from those of the other."""

    @property
    def database(self) -> Database: ...

    @property
    def backups(self) -> Backups: ...

    @property
    def states(self) -> VaultStates: ...
    @property
    def operations(self) -> Operations: ...

    @property
    def ledger(self) -> ErasureLedger: ...

    @property
    def rotation(self) -> Rotation: ...

    @property
    def memories(self) -> Memories: ...

    @property
    def exports(self) -> Exports: ...

    @property
    def recorder(self) -> Recorder: ...

    @property
    def refusals(self) -> Refusals: ...

    @property
    def operator_reads(self) -> OperatorReads: ...

    @property
    def imports(self) -> Imports: ...

    @property
    def guards(self) -> Sequence[Guard]:
        """Returns those that calls pass besides, after the rate limit."""
        ...

    @property
    def gauges(self) -> Figures:
        """Returns the figures of the role's work."""
        ...

    @property
    def replica_age_seconds(self) -> float:
        """Returns the age of the copy that is served, 0 on the primary."""
        ...

    def degraded(self) -> str | None:
        """Returns the check with which the server is degraded, or None."""
        ...

    def about(self) -> Mapping[str, object]:
        """Returns what `/health` says besides."""
        ...

    def findings(self) -> Sequence[Finding]:
        """Returns what an operator should know of the role's work."""
        ...

    async def open(self, parts: AsyncExitStack) -> None:
        """Opens what needs the database, which is open, and is closed after the drain. Raises StartupRefused."""
        ...

    async def begin(self, parts: AsyncExitStack, *, engine: TurnEngine) -> int:
        """Lets turns be read or run, and begins the role's own work. Returns how many turns had lost their owner."""
        ...


def choose_role(
    settings: Settings,
    *,
    database: Database | None,
    keys: VaultKeys,
    clock: Clock,
    adopted: Callable[[], Awaitable[None]],
) -> Role:
    """Returns the role that the settings give. `database` replaces the primary's, `adopted` is as for `Following`."""
    if settings.read_only:
        return ReadOnlyRole(settings, keys=keys, clock=clock, adopted=adopted)
    return PrimaryRole(settings, database=database, keys=keys, clock=clock)
