"""A server that serves copies of a primary's database, and refuses to write."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from metamorphd.audit.recording import NoRecorder, Recorder
from metamorphd.audit.stamping import NoStamping
from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.composition.backups import make_backups, make_ledger
from metamorphd.composition.transfers import make_exports, make_imports
from metamorphd.edge.guards import Guard
from metamorphd.edge.operator_reads import OperatorReads
from metamorphd.edge.read_only import RefuseWrites
from metamorphd.edge.refusals import Refusals
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.leaving.erasure_ledger import ErasureLedger
from metamorphd.memories.memories import Memories
from metamorphd.metrics import Figures
from metamorphd.models.finding import Finding
from metamorphd.operations import Operations
from metamorphd.replicas.following import Following
from metamorphd.replicas.litestream import Litestream
from metamorphd.secrets.rotation import Rotation
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.store.sqlite.replica import SqliteReplica
from metamorphd.vault_states import VaultStates


class ReadOnlyRole:
    """Follows a replica of the primary's database. `adopted` is awaited after each new copy."""

    def __init__(
        self, settings: Settings, *, keys: VaultKeys, clock: Clock, adopted: Callable[[], Awaitable[None]]
    ) -> None:
        primary = settings.primary_address or ""
        replica = SqliteReplica(path=settings.database_path, primary=primary)
        self.database: Database = replica
        self.states = VaultStates(database=replica)
        self.operations = Operations(database=replica, clock=clock)
        files = make_ledger(settings)
        self.ledger = ErasureLedger(database=replica, files=files, operations=self.operations)
        self.backups = make_backups(
            settings,
            database=replica,
            operations=self.operations,
            ledger=files,
            clock=clock,
            recorder=NoRecorder(),
            stamping=NoStamping(),
        )
        # Says how far the primary's is, and does nothing itself.
        self.rotation = Rotation(database=replica, keys=keys, operations=self.operations, clock=clock)
        # Which are used is not stored.
        self.memories = Memories(database=replica, clock=clock, half_life_days=settings.memory_half_life_days)
        # Makes none, because calls that would begin one are refused.
        self.exports = make_exports(
            settings, database=replica, operations=self.operations, states=self.states, keys=keys, clock=clock
        )
        self.recorder: Recorder = NoRecorder()
        self.refusals = Refusals(recorder=self.recorder)
        self.operator_reads = OperatorReads(recorder=self.recorder)
        self.imports = make_imports(settings, database=replica, operations=self.operations, clock=clock)
        self.guards: Sequence[Guard] = [RefuseWrites(primary=primary)]
        self._following = Following(
            copies=replica,
            source=Litestream(url=settings.replica_url or "", environment=settings.replica_environment),
            clock=clock,
            interval_seconds=settings.replica_interval_seconds,
            adopted=adopted,
        )

    @property
    def gauges(self) -> Figures:
        return {}

    @property
    def replica_age_seconds(self) -> float:
        return self._following.age_seconds

    def degraded(self) -> str | None:
        return self._following.degraded()

    def about(self) -> Mapping[str, object]:
        return self._following.about()

    def findings(self) -> Sequence[Finding]:
        return [self._following.finding()]

    async def open(self, parts: AsyncExitStack) -> None:
        await parts.enter_async_context(self._following)

    async def begin(self, _parts: AsyncExitStack, *, engine: TurnEngine) -> int:
        engine.serve_reads()
        return 0
