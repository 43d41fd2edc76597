"""A server that writes."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from metamorphd.audit.anchoring import Anchoring
from metamorphd.audit.recording import LogRecorder, Recorder
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.composition.audit import make_stamping
from metamorphd.composition.backups import make_backups, make_ledger
from metamorphd.composition.transfers import make_exports, make_imports
from metamorphd.edge.guards import Guard
from metamorphd.edge.operator_reads import OperatorReads
from metamorphd.edge.refusals import Refusals
from metamorphd.housekeeping import Housekeeping
from metamorphd.keys.audit import make_chain
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.leaving.erasure_ledger import ErasureLedger
from metamorphd.memories.memories import Memories
from metamorphd.metrics import Figures
from metamorphd.models.finding import Finding
from metamorphd.operations import Operations
from metamorphd.secrets.rotation import Rotation
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.vault_states import VaultStates

SWEEP_SECONDS = 2.0


class PrimaryRole:
    """Runs turns, deletes what is due, and makes backups. `database` defaults to that of the settings."""

    replica_age_seconds = 0.0
    guards: Sequence[Guard] = ()

    def __init__(self, settings: Settings, *, database: Database | None, keys: VaultKeys, clock: Clock) -> None:
        self.database = database or SqliteDatabase(
            path=settings.database_path,
            synchronous=settings.sqlite_synchronous,
            floor_bytes=settings.storage_floor_bytes,
            chain=make_chain(settings.audit_key_texts),
        )
        self.recorder: Recorder = LogRecorder(database=self.database, clock=clock)
        self.refusals = Refusals(recorder=self.recorder)
        self.operator_reads = OperatorReads(recorder=self.recorder)
        self.states = VaultStates(database=self.database)
        self.operations = Operations(database=self.database, clock=clock)
        files = make_ledger(settings)
        self.ledger = ErasureLedger(database=self.database, files=files, operations=self.operations)
        self._stamping = make_stamping(settings, clock=clock)
        self.backups = make_backups(
            settings,
            database=self.database,
            operations=self.operations,
            ledger=files,
            clock=clock,
            recorder=self.recorder,
            stamping=self._stamping,
        )
        self.rotation = Rotation(database=self.database, keys=keys, operations=self.operations, clock=clock)
        self.memories = Memories(database=self.database, clock=clock, half_life_days=settings.memory_half_life_days)
        self.exports = make_exports(
            settings, database=self.database, operations=self.operations, states=self.states, keys=keys, clock=clock
        )
        self.imports = make_imports(settings, database=self.database, operations=self.operations, clock=clock)
        self._housekeeping = Housekeeping(
            database=self.database,
            clock=clock,
            event_retention_hours=settings.event_retention_hours,
            request_retention_days=settings.request_retention_days,
            change_retention_days=settings.change_retention_days,
            audit_retention_days=settings.audit_retention_days,
            chores=[
                self.operations.work,
                self.rotation.work,
                self.memories.work,
                self.exports.work,
                self.imports.work,
                self.refusals.work,
                self.operator_reads.work,
                self.ledger.file,
                Anchoring(database=self.database, clock=clock, stamping=self._stamping).work,
            ],
        )

    @property
    def gauges(self) -> Figures:
        return {
            **self.backups.gauges,
            **self._housekeeping.gauges,
            **self.rotation.gauges,
            **self._stamping.gauges,
        }

    def degraded(self) -> str | None:
        return self.backups.degraded()

    def about(self) -> Mapping[str, object]:
        return {}

    def findings(self) -> Sequence[Finding]:
        return self._stamping.findings()

    async def open(self, parts: AsyncExitStack) -> None:
        # Before any call is admitted: the database may have been restored.
        await self.ledger.replay()
        # Once whatever has operations is closed.
        parts.push_async_callback(self.operations.work)
        # Backups are time-stamped, and so close first.
        parts.push_async_callback(self._stamping.aclose)
        await parts.enter_async_context(self.backups)
        await parts.enter_async_context(self.exports)
        parts.push_async_callback(self.refusals.flush)
        parts.push_async_callback(self.operator_reads.flush)
        await parts.enter_async_context(self.imports)

    async def begin(self, parts: AsyncExitStack, *, engine: TurnEngine) -> int:
        await self.operations.recover()
        swept = await engine.sweep(patience_seconds=SWEEP_SECONDS)
        await parts.enter_async_context(self._housekeeping)
        # Its end may take seconds, which pass during the drain.
        parts.callback(self.backups.stop)
        return swept
