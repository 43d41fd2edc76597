"""The composition root, the only module that knows every part."""

import asyncio
import contextlib
import gc
import importlib
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry

from metamorphd.allocator import Allocator
from metamorphd.auth.emblem import EmblemApi
from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.jwks import KeySet
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.auth.tokens import OwnTokens, TokenVerifier
from metamorphd.backups.backups import Backups
from metamorphd.catalog import Catalog, load_catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.chat.prompts import Prompts
from metamorphd.chat.titles import Titles
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.checks.configuration import bad, check_settings
from metamorphd.checks.running import RunningServer
from metamorphd.clock import Clock
from metamorphd.edge.connections import connection_limits, raise_descriptor_limit
from metamorphd.edge.grpc.adapter import register
from metamorphd.edge.grpc.health import NAME as HEALTH
from metamorphd.edge.grpc.health import Health
from metamorphd.edge.grpc.port import GrpcPort
from metamorphd.edge.grpc.reflection import add_reflection
from metamorphd.edge.grpc.tls import Tls
from metamorphd.edge.guards import Authenticate, Authorize, Guard, LimitRate, Limits, LimitSize, Validate
from metamorphd.edge.http.access import Access
from metamorphd.edge.http.protocol import Connections
from metamorphd.edge.http.server import HttpServer, application, health_route, metrics_route
from metamorphd.edge.methods import PERMISSIONS, SERVICES, methods_of
from metamorphd.edge.pipeline import Pipeline, measure_of
from metamorphd.edge.rate_limit import MemoryLimits, RateLimit
from metamorphd.edge.read_only import RefuseWrites
from metamorphd.edge.streams import PATIENCE_SECONDS, Streams
from metamorphd.errors import ServerFailed, StartupRefused
from metamorphd.housekeeping import Housekeeping
from metamorphd.in_flight import BytesInFlight
from metamorphd.llm.claude import Claude
from metamorphd.llm.interface import Model
from metamorphd.llm.measured import MeasuredModel
from metamorphd.llm.offline import Offline
from metamorphd.metrics import Figures, Gauges, Info, Metrics
from metamorphd.models.caller import server_scope
from metamorphd.models.finding import Finding
from metamorphd.observe import CallLog
from metamorphd.replicas.following import Following
from metamorphd.replicas.litestream import Litestream
from metamorphd.services.admin.service import AdminService, Build
from metamorphd.services.chat.service import ChatService
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.vault import VaultService
from metamorphd.settings import Settings
from metamorphd.store.database import Database
from metamorphd.store.revocations import load_revocations
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.replica import SqliteReplica
from metamorphd.store.turns.terms import Terms
from metamorphd.telemetry import names
from metamorphd.telemetry.interface import NoTelemetry, Telemetry
from metamorphd.telemetry.receiver import headers_of

if TYPE_CHECKING:
    from metamorphd.backups.copies import Copies

NAMES = [service.full_name for service in SERVICES]

# Time after the drain for calls in progress to send their last bytes.
LAST_SEND_SECONDS = 2.0
# Time for a server that failed to answer its callers.
LAST_STOP_SECONDS = 5.0
SWITCH_SECONDS = 0.0002
# The texts of prompts have this share of the memory for requests, besides.
TEXTS_SHARE = 0.5
SWEEP_SECONDS = 2.0
LEASE_MICROSECONDS = 30_000_000
RESUME_FACTOR = 10

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
        self._replica = _replica(settings)
        self._following = None if self._replica is None else self._follow(self._replica)
        self._database = (
            database
            or self._replica
            or SqliteDatabase(
                path=settings.database_path,
                synchronous=settings.sqlite_synchronous,
                floor_bytes=settings.storage_floor_bytes,
            )
        )
        self._catalog = _catalog(settings, self._clock)
        self._model = MeasuredModel(_model(settings))
        self._metrics = Metrics()
        self._turn_metrics = TurnMetrics()
        self._telemetry = _telemetry(settings, self._clock)
        self._telemetry.measure([measure_of(self._metrics), *self._model.measures])
        self._revoked_tokens = RevokedTokens()
        self._backups = Backups(
            database=self._database,
            clock=self._clock,
            path=settings.backup_path,
            interval_hours=settings.backup_interval_hours,
            retention_days=settings.backup_retention_days,
            server_version=version("metamorphd"),
            copies=_copies(settings, self._clock),
        )
        today = datetime.fromtimestamp(self._clock.now() / 1e6, UTC).date()
        checked = [*found, *check_settings(settings, today=today)]
        self._warnings = [str(finding) for finding in bad(checked)]
        self._checks = RunningServer(
            database=self._database,
            # A link to it may be on another volume.
            directory=Path(os.path.realpath(settings.database_path)).parent,
            settings=checked,
            replica=lambda: [] if self._following is None else [self._following.finding()],
            memory_needed=int(settings.max_bytes_in_flight * (1 + TEXTS_SHARE)),
            contained=settings.contained,
            telemetry=self._telemetry.findings,
        )
        self._engine = self._make_engine()
        self._housekeeping = Housekeeping(
            database=self._database,
            clock=self._clock,
            event_retention_hours=settings.event_retention_hours,
            request_retention_days=settings.request_retention_days,
        )
        self._metrics.register(
            *self._model.collectors,
            *self._turn_metrics.collectors,
            *self._database.collectors,
            *self._telemetry.collectors,
            Gauges({**self._database.gauges, **({} if self._following else self._writing_gauges())}),
            Gauges(
                {
                    "metamorph_running_turns": ("Turns that are generating a reply", self._count_running_turns),
                    "metamorph_replica_age_seconds": ("Age of the copy that a read-only server serves", self._age),
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
        await _first(self._database.failed(), self._model_failed())

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
        connections = connection_limits()
        degraded = self._backups.degraded if self._following is None else self._following.degraded
        health = Health(database=self._database, services=NAMES, backups=degraded)
        access = _access(settings)
        http, metrics = await self._open_http(parts, health, access, connections=Connections(connections))
        log = await parts.enter_async_context(CallLog(level=settings.log_level))
        await parts.enter_async_context(self._telemetry)
        limits = await parts.enter_async_context(_limits(settings))
        client = await parts.enter_async_context(HttpClient())
        port = GrpcPort(
            address=settings.listen_address, port=settings.grpc_port, tls=_tls(settings), limits=connections
        )
        verifier = await parts.enter_async_context(
            _verifier(settings, clock=self._clock, http=client, revoked_tokens=self._revoked_tokens)
        )
        pipeline = self._pipeline(limits, verifier, log)
        for service, servicer in self._servicers().items():
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
        if self._following is not None:
            await parts.enter_async_context(self._following)
        await self._load_revocations()
        # A metrics token that is not ours, perhaps an older one, must not be shown to the Emblem API.
        access.authenticate = Authenticate(verifier=OwnTokens(verifier), dev_mode=False, failures=_failures(settings))
        if self._following is None:
            await parts.enter_async_context(self._backups)
        parts.push_async_callback(self._drain)
        swept = 0
        if self._following is None:
            swept = await self._engine.sweep(patience_seconds=SWEEP_SECONDS)
            await parts.enter_async_context(self._housekeeping)
            # Its end may take seconds, which pass during the drain.
            parts.callback(self._backups.stop)
        else:
            self._engine.serve_reads()
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

    async def _open_http(
        self, parts: AsyncExitStack, health: Health, access: Access, *, connections: Connections
    ) -> tuple[HttpServer, HttpServer]:
        """Listens for HTTP. Returns the server of `/health` and that of `/metrics`, which may be the same."""
        settings = self._settings
        about = dict if self._following is None else self._following.about
        routes = [health_route(health, access, self._clock, about=about), metrics_route(self._metrics.registry, access)]
        own = [] if settings.metrics_listener is None else [routes.pop()]
        http = HttpServer(
            application(*routes), address=settings.listen_address, port=settings.port, connections=connections
        )
        await parts.enter_async_context(http)
        if settings.metrics_listener is None:
            return http, http
        address, port = settings.metrics_listener
        metrics = HttpServer(
            application(*own), address=address, port=port, connections=connections, setting="METRICS_ADDRESS"
        )
        await parts.enter_async_context(metrics)
        return http, metrics

    async def _drain(self) -> None:
        logger.info("draining", running_turns=self._engine.running_turns)
        await self._engine.drain(grace_seconds=self._grace_seconds)

    def _count_running_turns(self) -> float:
        return self._engine.running_turns

    def _writing_gauges(self) -> Figures:
        return {**self._backups.gauges, **self._housekeeping.gauges}

    def _age(self) -> float:
        return 0.0 if self._following is None else self._following.age_seconds

    async def _load_revocations(self) -> None:
        self._revoked_tokens.load(await self._database.read_system(load_revocations, server_scope()))

    def _follow(self, replica: SqliteReplica) -> Following:
        settings = self._settings
        return Following(
            copies=replica,
            source=Litestream(url=settings.replica_url or "", environment=settings.replica_environment),
            clock=self._clock,
            interval_seconds=settings.replica_interval_seconds,
            adopted=self._load_revocations,
        )

    def _make_engine(self) -> TurnEngine:
        titles = Titles(
            database=self._database,
            model=self._model,
            catalog=self._catalog,
            clock=self._clock,
            metrics=self._turn_metrics,
            title_model=self._settings.session_title_model,
        )
        terms = _terms(self._settings, self._catalog, self._clock)
        memory = _in_flight(self._settings, self._allocator, share=TEXTS_SHARE)
        return TurnEngine(
            database=self._database,
            model=self._model,
            clock=self._clock,
            terms=terms,
            titles=titles,
            prompts=Prompts(database=self._database, terms=terms, memory=memory),
            metrics=self._turn_metrics,
            time_limit=self._settings.turn_timeout_seconds,
        )

    def _pipeline(self, limits: Limits, verifier: TokenVerifier, log: CallLog) -> Pipeline:
        return Pipeline(
            guards=_guards(self._settings, verifier=verifier, limits=limits),
            streams=Streams(revoked_tokens=self._revoked_tokens, clock=self._clock, patience_seconds=PATIENCE_SECONDS),
            in_flight=_in_flight(self._settings, self._allocator),
            metrics=self._metrics,
            log=log,
            telemetry=self._telemetry,
            explains=self._settings.emblem_dev_mode,
        )

    def _servicers(self) -> dict[ServiceDescriptor, object]:
        chat = ChatService(
            database=self._database,
            engine=self._engine,
            clock=self._clock,
            uploads=Uploads(limit=self._settings.max_attachment_bytes),
            catalog=self._catalog,
            default_model=self._settings.default_model,
            max_content_bytes=self._settings.max_content_bytes,
            storage_limit=self._settings.vault_storage_bytes,
        )
        build = Build(
            version=version("metamorphd"),
            settings=self._settings.shown(),
            warnings=self._warnings,
            model_source=self._model.source,
            start_time=self._clock.now(),
            findings=self._checks.findings,
        )
        admin = AdminService(
            database=self._database,
            engine=self._engine,
            revoked_tokens=self._revoked_tokens,
            backups=self._backups,
            clock=self._clock,
            build=build,
        )
        vault = VaultService(
            database=self._database, clock=self._clock, storage_limit=self._settings.vault_storage_bytes
        )
        return dict(zip(SERVICES, (chat, vault, admin), strict=True))


def _replica(settings: Settings) -> SqliteReplica | None:
    if not settings.read_only:
        return None
    return SqliteReplica(path=settings.database_path, primary=settings.primary_address or "")


def _catalog(settings: Settings, clock: Clock) -> Catalog:
    catalog = load_catalog(settings.model_catalog, now=clock.now())
    for name, model in (
        ("DEFAULT_MODEL", settings.default_model),
        ("SESSION_TITLE_MODEL", settings.session_title_model or settings.default_model),
    ):
        if not catalog.accepts(model):
            names = ", ".join(known.model for known in catalog.models)
            raise StartupRefused(f"{name} {model} is not in the model catalog, which contains {names}")
    return catalog


def _terms(settings: Settings, catalog: Catalog, clock: Clock) -> Terms:
    return Terms(
        catalog=catalog,
        default_model=settings.default_model,
        max_output_tokens=settings.max_output_tokens,
        max_running_turns=settings.max_running_turns,
        compact_above=settings.compaction_trigger_tokens,
        owner=clock.new_id("srv"),
        lease=LEASE_MICROSECONDS,
        storage_limit=settings.vault_storage_bytes,
    )


def _model(settings: Settings) -> Model:
    if settings.anthropic_api_key is None:
        return Offline()
    return Claude(
        api_key=settings.anthropic_api_key.get_secret_value(),
        base_url=settings.anthropic_base_url,
        max_retries=settings.anthropic_max_retries,
        stall_seconds=settings.anthropic_stall_seconds,
        compact_above=settings.compaction_trigger_tokens,
    )


def _telemetry(settings: Settings, clock: Clock) -> Telemetry:
    if settings.otel_exporter_otlp_endpoint is None:
        return NoTelemetry()
    # Imported only when used, as below.
    telemetry: Telemetry = importlib.import_module("metamorphd.telemetry.otlp").Otlp(
        endpoint=settings.otel_exporter_otlp_endpoint,
        headers=headers_of(settings.otel_exporter_otlp_headers),
        resource={
            names.SERVICE_NAME: settings.otel_service_name,
            names.SERVICE_VERSION: version("metamorphd"),
            names.SERVICE_INSTANCE_ID: clock.new_id("srv"),
            names.DEPLOYMENT_ENVIRONMENT: settings.node_env,
        },
        share=settings.otel_traces_sampler_arg,
        sends_metrics=settings.otel_metrics_exporter == "otlp",
    )
    return telemetry


def _copies(settings: Settings, clock: Clock) -> "Copies | None":
    if settings.backup_s3_url is None:
        return None
    # Imported only when used, as above.
    module = importlib.import_module("metamorphd.backups.copies")
    copies: Copies = module.copies_in(
        settings.backup_s3_url,
        credentials=settings.s3_credentials(),
        keys=settings.encryption_keys,
        compressed=settings.backup_compression == "zstd",
        directory=settings.backup_path,
        clock=clock,
        retention_days=settings.backup_retention_days,
    )
    return copies


def _in_flight(settings: Settings, allocator: Allocator, *, share: float = 1.0) -> BytesInFlight:
    """Returns a share of the configured budget of memory."""
    return BytesInFlight(
        total=int(settings.max_bytes_in_flight * share),
        per_vault=int(settings.max_vault_bytes_in_flight * share),
        freed=allocator.return_soon,
    )


def _tls(settings: Settings) -> Tls | None:
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    return Tls(settings.grpc_tls_cert, settings.grpc_tls_key.get_secret_value(), settings.grpc_tls_client_ca)


def _access(settings: Settings) -> Access:
    token = settings.metrics_token
    return Access(
        metrics_token=None if token is None else token.get_secret_value(),
        public=not settings.metrics_need_token,
        everybody=settings.emblem_dev_mode,
    )


def _verifier(settings: Settings, *, clock: Clock, http: HttpClient, revoked_tokens: RevokedTokens) -> TokenVerifier:
    emblem = None
    if settings.emblem_api_url:
        emblem = EmblemApi(url=settings.emblem_api_url, http=http, permissions=PERMISSIONS)
    key_set = None
    if settings.emblem_jwks_url:
        key_set = KeySet(
            url=settings.emblem_jwks_url,
            http=http,
            revoked_tokens=revoked_tokens,
            vaults=settings.jwks_vaults,
            operators=settings.emblem_jwks_operators,
        )
    return TokenVerifier(
        permissions=PERMISSIONS,
        secrets=settings.jwt_secrets,
        key_set=key_set,
        emblem=emblem,
        revoked_tokens=revoked_tokens,
        clock=clock,
        issuer=settings.emblem_jwt_issuer,
        audience=settings.emblem_jwt_audience,
    )


def _failures(settings: Settings) -> RateLimit:
    return RateLimit(requests=settings.auth_failure_requests, window_seconds=settings.rate_limit_window_seconds)


def _guards(settings: Settings, *, verifier: TokenVerifier, limits: Limits) -> list[Guard]:
    """Returns the guards in the documented order of checks; each guard's docstring gives the reason for its place."""
    requests, window = settings.rate_limit_requests, settings.rate_limit_window_seconds
    return [
        Authenticate(verifier=verifier, dev_mode=settings.emblem_dev_mode, failures=_failures(settings)),
        Authorize(),
        LimitRate(
            general=limits.limit("general", requests=requests, window_seconds=window),
            # Resuming or watching a turn that is already paid for.
            resume=limits.limit("resume", requests=requests * RESUME_FACTOR, window_seconds=window),
        ),
        *([RefuseWrites(primary=settings.primary_address or "")] if settings.read_only else []),
        LimitSize(),
        Validate(),
    ]


def _limits(settings: Settings) -> Limits:
    if settings.rate_limit_storage is None or settings.rate_limit_requests == 0:
        return MemoryLimits()
    # Imported only when used: the library and its client take a tenth of a second and ten megabytes.
    shared = importlib.import_module("metamorphd.edge.shared_rate_limit")
    limits: Limits = shared.SharedLimits(settings.rate_limit_storage.get_secret_value())
    return limits


async def serve(
    settings: Settings, *, found: Sequence[Finding] = (), announce: Callable[[Server], None] = lambda _: None
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.

    Raises StartupRefused, and ServerFailed if it cannot go on.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    # The writer thread may wait this long for the GIL, several times per commit. The default of 5 ms is noticeable.
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_descriptor_limit()
    server = Server(settings, found=found)
    await server.start()
    settling = asyncio.create_task(_settle(server))
    announce(server)
    failed = await _first(stopping.wait(), server.failed())
    settling.cancel()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(signum)
    if failed:
        # Parts may wait for the store in vain.
        last = threading.Timer(LAST_STOP_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
        try:
            await server.stop(grace_seconds=0)
        finally:
            last.cancel()
        raise ServerFailed("the server failed and must be started again; the log has the reason")
    await server.stop()
    logger.info("stopped")


async def _settle(server: Server) -> None:
    """Exempts from garbage collections what is made at the start: scanning it would delay every call by 0.1 s."""
    with contextlib.suppress(Exception):
        # If it fails, the server ends.
        await server.opened()
    gc.collect()
    gc.freeze()


async def _first(*waits: Coroutine[Any, Any, object]) -> int:
    """Waits until one of them ends, and returns its place."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(place for place, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
