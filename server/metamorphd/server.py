"""The composition root, the only module that knows every part. `composition/` makes the parts from the settings."""

import asyncio
import os
import platform
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from metamorphd.allocator import Allocator
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.auth.tokens import TokenVerifier
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.checks.configuration import bad, check_settings
from metamorphd.checks.keys import NeededKeys
from metamorphd.checks.running import RunningServer
from metamorphd.clock import Clock
from metamorphd.composition.authentication import authenticate_visitors, make_access, verifying
from metamorphd.composition.guards import make_guards, make_limits
from metamorphd.composition.keys import make_keys
from metamorphd.composition.memory import memory_for_requests, memory_for_texts, memory_needed
from metamorphd.composition.ports import make_grpc_port, open_http
from metamorphd.composition.role import choose_role
from metamorphd.composition.services import make_servicers
from metamorphd.composition.telemetry import make_telemetry
from metamorphd.composition.turns import make_catalog, make_engine, make_model
from metamorphd.edge.connections import connection_limits
from metamorphd.edge.grpc.adapter import register
from metamorphd.edge.grpc.health import NAME as HEALTH
from metamorphd.edge.grpc.health import Health
from metamorphd.edge.grpc.reflection import add_reflection
from metamorphd.edge.guards import Limits
from metamorphd.edge.methods import SERVICES, methods_of
from metamorphd.edge.pipeline import Pipeline, measure_of
from metamorphd.edge.streams import PATIENCE_SECONDS, Streams
from metamorphd.keys.audit import make_chain
from metamorphd.llm.measured import MeasuredModel
from metamorphd.metrics import Gauges, Info, Metrics
from metamorphd.models.caller import server_scope
from metamorphd.models.finding import Finding
from metamorphd.observe import CallLog
from metamorphd.services.admin.service import Build
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.store.revocations import load_revocations
from metamorphd.watching import Watching

NAMES = [service.full_name for service in SERVICES]

# Time after the drain for calls in progress to send their last bytes.
LAST_SEND_SECONDS = 2.0

logger = structlog.get_logger(__name__)


class Server:
    """The server and its parts, from `start` to `stop`. `database` and `clock` default to the production ones.

    `found` is what an operator should know of how the settings were given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database | None = None,
        clock: Clock | None = None,
        found: Sequence[Finding] = (),
    ) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._allocator = Allocator()
        self._catalog = make_catalog(settings, self._clock)
        self._model = MeasuredModel(make_model(settings))
        self._metrics = Metrics()
        self._turn_metrics = TurnMetrics()
        self._telemetry = make_telemetry(settings, self._clock)
        self._telemetry.measure([measure_of(self._metrics), *self._model.measures])
        self._revoked_tokens = RevokedTokens()
        self._keys = make_keys(settings)
        self._role = choose_role(
            settings, database=database, keys=self._keys, clock=self._clock, adopted=self._load_refused
        )
        self._database = self._role.database
        self._states = self._role.states
        self._checked = [*found, *check_settings(settings, today=self._today())]
        self._checks = RunningServer(
            database=self._database,
            # A link to it may be on another volume.
            directory=Path(os.path.realpath(settings.database_path)).parent,
            settings=self._checked,
            role=self._role.findings,
            keys=NeededKeys(
                database=self._database,
                holder=self._keys.holder,
                chain=make_chain(settings.audit_key_texts),
            ).findings,
            read_only=settings.read_only,
            memory_needed=memory_needed(settings),
            contained=settings.contained,
            telemetry=self._telemetry.findings,
        )
        self._engine = make_engine(
            settings,
            database=self._database,
            model=self._model,
            catalog=self._catalog,
            memories=self._role.memories,
            clock=self._clock,
            memory=memory_for_texts(settings, self._allocator),
            metrics=self._turn_metrics,
        )
        self._watching = Watching(database=self._database)
        self._register_metrics()
        self._parts = AsyncExitStack()
        self._grace_seconds = settings.shutdown_grace_seconds
        self.http_port = 0
        self.metrics_port = 0
        self.grpc_port = 0

    @property
    def registry(self) -> CollectorRegistry:
        """Returns the metrics. Before the start, all are there, and most have no value."""
        return self._metrics.registry

    async def start(self) -> None:
        """Listens, so that health checks are answered, then opens the store and serves. Raises StartupRefused.

        If a step fails, every part that was opened is closed again.
        """
        async with AsyncExitStack() as parts:
            await self._open(parts)
            self._parts = parts.pop_all()

    async def opened(self) -> None:
        """Returns once everything that is made at the start is there: the server serves before the model is ready."""
        await self._model.opened()

    async def failed(self) -> None:
        """Returns once the server cannot go on, and must be stopped and started again."""
        await first_of(self._database.failed(), self._model_failed())

    async def _model_failed(self) -> None:
        try:
            await self._model.opened()
        except Exception:
            logger.exception("the model's library cannot be loaded")
        else:
            await asyncio.Event().wait()

    async def stop(self, *, grace_seconds: float | None = None) -> None:
        """Drains, then closes every part. Draining refuses new turns, lets running ones finish, and ends every stream.

        Turns have `grace_seconds` to finish, by default those of the settings. May be called more than once.
        """
        if grace_seconds is not None:
            self._grace_seconds = grace_seconds
        await self._parts.aclose()

    async def _open(self, parts: AsyncExitStack) -> None:
        """Opens every part after those that it uses. Parts are closed in reverse order."""
        settings = self._settings
        limits = connection_limits()
        health = Health(database=self._database, services=NAMES, backups=self._role.degraded)
        access = make_access(settings)
        http, metrics = await open_http(
            settings,
            parts,
            health=health,
            about=self._role.about,
            access=access,
            registry=self._metrics.registry,
            clock=self._clock,
            limits=limits,
        )
        log = await parts.enter_async_context(CallLog(level=settings.log_level))
        await parts.enter_async_context(self._telemetry)
        rates = await parts.enter_async_context(make_limits(settings))
        port = make_grpc_port(settings, limits)
        verifier = await parts.enter_async_context(
            verifying(settings, clock=self._clock, revoked_tokens=self._revoked_tokens)
        )
        pipeline = self._pipeline(rates, verifier, log)
        servicers = make_servicers(
            settings,
            role=self._role,
            engine=self._engine,
            catalog=self._catalog,
            revoked_tokens=self._revoked_tokens,
            keys=self._keys,
            watching=self._watching,
            states=self._states,
            clock=self._clock,
            build=self._build(),
        )
        for service, servicer in servicers.items():
            register(port.server, pipeline.handlers(methods_of([service]), servicer))
        await health.serve_on(port.server)
        add_reflection(port.server, [*NAMES, HEALTH])
        await parts.enter_async_context(port)
        self.http_port, self.metrics_port, self.grpc_port = http.port, metrics.port, port.port
        await parts.enter_async_context(self._model)
        await parts.enter_async_context(self._database)
        # Calls in progress use the store, so they end before it closes.
        parts.push_async_callback(port.stop)
        parts.push_async_callback(pipeline.idle, seconds=LAST_SEND_SECONDS)
        await self._role.open(parts)
        await self._load_refused()
        access.authenticate = authenticate_visitors(settings, verifier)
        # Watchers see the turns end.
        await parts.enter_async_context(self._watching)
        parts.push_async_callback(self._drain)
        swept = await self._role.begin(parts, engine=self._engine)
        await parts.enter_async_context(health)
        # At once, before the parts that are closed until the drain begins.
        parts.callback(self._engine.refuse_turns)
        for finding in bad(await self._checks.at_start()):
            logger.warning(finding.what, check=finding.name, remedy=finding.remedy)
        logger.info(
            "serving",
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            metrics_port=self.metrics_port,
            version=version("metamorphd"),
            model_source=self._model.source,
            interrupted_turns=swept,
        )

    async def _drain(self) -> None:
        logger.info("draining", running_turns=self._engine.running_turns)
        await self._engine.drain(grace_seconds=self._grace_seconds)

    async def _load_refused(self) -> None:
        # Revocations are last: until they are loaded, everybody is refused.
        await self._states.load()
        self._revoked_tokens.load(await self._database.read_system(load_revocations, server_scope()))

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now() / 1e6, UTC).date()

    def _pipeline(self, rates: Limits, verifier: TokenVerifier, log: CallLog) -> Pipeline:
        return Pipeline(
            guards=make_guards(
                self._settings,
                verifier=verifier,
                limits=rates,
                database=self._database,
                operator_reads=self._role.operator_reads,
                of_role=self._role.guards,
            ),
            refusals=self._role.refusals,
            streams=Streams(
                revoked_tokens=self._revoked_tokens,
                vault_states=self._states,
                clock=self._clock,
                patience_seconds=PATIENCE_SECONDS,
            ),
            in_flight=memory_for_requests(self._settings, self._allocator),
            metrics=self._metrics,
            log=log,
            telemetry=self._telemetry,
            explains=self._settings.emblem_dev_mode,
        )

    def _build(self) -> Build:
        return Build(
            version=version("metamorphd"),
            settings=self._settings.shown(),
            warnings=[str(finding) for finding in bad(self._checked)],
            model_source=self._model.source,
            start_time=self._clock.now(),
            findings=self._checks.findings,
        )

    def _register_metrics(self) -> None:
        self._metrics.register(
            *self._model.collectors,
            *self._turn_metrics.collectors,
            *self._database.collectors,
            *self._telemetry.collectors,
            Gauges({**self._database.gauges, **self._role.gauges, **self._states.gauges}),
            Gauges(
                {
                    "metamorph_running_turns": (
                        "Turns that are generating a reply",
                        lambda: self._engine.running_turns,
                    ),
                    "metamorph_replica_age_seconds": (
                        "Age of the copy that a read-only server serves",
                        lambda: self._role.replica_age_seconds,
                    ),
                }
            ),
            Info(
                "metamorph_build_info",
                "Version of the server, and where replies come from",
                version=version("metamorphd"),
                python=platform.python_version(),
                model_source=self._model.source,
            ),
        )


async def first_of(*waits: Coroutine[Any, Any, object]) -> int:
    """Waits until one of them ends, and returns its place."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(place for place, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
