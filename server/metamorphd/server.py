"""The composition root: the only file that knows every part."""

import asyncio
import gc
import importlib
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version

import structlog
from metamorph.admin.v1 import admin_service_pb2_grpc
from metamorph.chat.v1 import chat_service_pb2_grpc
from metamorph.vault.v1 import vault_service_pb2_grpc
from prometheus_client import Gauge

from metamorphd.auth.emblem import EmblemApi
from metamorphd.auth.http_client import Web
from metamorphd.auth.jwks import KeySet
from metamorphd.auth.revoked_tokens import Revocations
from metamorphd.auth.tokens import TokenVerifier
from metamorphd.catalog import Catalog, load_catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.chat.titles import Titles
from metamorphd.clock import Clock
from metamorphd.edge.grpc import health
from metamorphd.edge.grpc.hardened_server import accepting_server
from metamorphd.edge.grpc.port import OPTIONS
from metamorphd.edge.grpc.reflection import add_reflection
from metamorphd.edge.grpc.tls import Certificates, Tls
from metamorphd.edge.guards import Authenticate, Guard, LimitRate, Limits, Validate, authorize
from metamorphd.edge.http.server import HttpServer, application
from metamorphd.edge.methods import PERMISSIONS, SERVICES, methods_of
from metamorphd.edge.pipeline import Interceptor
from metamorphd.edge.rate_limit import MemoryLimits, RateLimit
from metamorphd.edge.streams import PATIENCE_SECONDS, Streams
from metamorphd.errors import StartupRefused
from metamorphd.housekeeping import Housekeeping
from metamorphd.llm.claude import Claude
from metamorphd.llm.interface import Model
from metamorphd.llm.offline import Offline
from metamorphd.observe import CallLog, Metrics
from metamorphd.services.admin import AdminService, Build
from metamorphd.services.chat.service import ChatService
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.vault import VaultService
from metamorphd.settings import Settings
from metamorphd.store.database import Database
from metamorphd.store.revocations import load_revocations
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.turns.plan import Terms

NAMES = [service.full_name for service in SERVICES]

# After the drain: time for calls that are answering to send their last bytes.
LAST_SEND_SECONDS = 2.0
SWITCH_SECONDS = 0.001
SWEEP_SECONDS = 2.0
RESUME_FACTOR = 10

logger = structlog.get_logger(__name__)


class Server:
    """All parts, wired. `database` and `clock` are the production ones unless a test brings its own."""

    def __init__(self, settings: Settings, *, database: Database | None = None, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._database = database or SqliteDatabase(
            path=settings.database_path, synchronous=settings.sqlite_synchronous
        )
        self._catalog = _catalog(settings)
        self._model = _model(settings)
        self._metrics = Metrics()
        self._engine = TurnEngine(
            database=self._database,
            model=self._model,
            clock=self._clock,
            terms=_terms(settings, self._catalog),
            titles=Titles(
                database=self._database,
                model=self._model,
                catalog=self._catalog,
                clock=self._clock,
                title_model=settings.session_title_model,
            ),
            time_limit=settings.turn_timeout_seconds,
        )
        running = Gauge("metamorph_running_turns", "Turns that generate a reply now", registry=self._metrics.registry)
        running.set_function(lambda: self._engine.running_turns)
        self._revocations = Revocations()
        self._web = Web()
        self._limits = _limits(settings)
        verifier = _verifier(settings, clock=self._clock, web=self._web, revocations=self._revocations)
        self._interceptor = Interceptor(
            methods=methods_of(SERVICES),
            guards=_guards(settings, verifier=verifier, limits=self._limits),
            # After them: what is parsed costs most.
            request_guards=[Validate()],
            streams=Streams(revocations=self._revocations, clock=self._clock, patience_seconds=PATIENCE_SECONDS),
            metrics=self._metrics,
            log=CallLog(level=settings.log_level),
        )
        self._health = health.Health(database=self._database, services=NAMES)
        self._housekeeping = Housekeeping(
            database=self._database, clock=self._clock, event_retention_hours=settings.event_retention_hours
        )
        self._http = HttpServer(
            application(failing=self._health.failing, registry=self._metrics.registry),
            address=settings.listen_address,
            port=settings.port,
        )
        self.http_port = 0
        self.grpc_port = 0

    async def start(self) -> None:
        """Listens, so that health can be asked, then opens the store; serves once it is open. Raises StartupRefused."""
        self.http_port = await self._http.start()
        self._grpc = accepting_server(interceptors=[self._interceptor], options=OPTIONS)
        try:
            await self._start_grpc()
            await asyncio.gather(self._database.open(), self._model.open())
            self._revocations.load(await self._database.read_system(load_revocations))
            swept = await self._engine.sweep(patience_seconds=SWEEP_SECONDS)
        except BaseException:
            await self._grpc.stop(0)
            await self._http.stop()
            raise
        self._housekeeping.start()
        await self._health.ready()
        for warning in self._settings.warnings:
            logger.warning(warning)
        logger.info(
            "serving",
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            version=version("metamorphd"),
            model_source=self._model.source,
            interrupted_turns=swept,
        )

    async def stop(self, *, grace_seconds: float) -> None:
        """Drains: no new turns, running ones may end within the grace, every stream ends; then closes all."""
        logger.info("draining", running_turns=self._engine.running_turns)
        await self._health.drain()
        await self._engine.drain(grace_seconds=grace_seconds)
        # Not grpc's own grace: an open Health.Watch would hold it to the end.
        await self._interceptor.idle(seconds=LAST_SEND_SECONDS)
        await self._grpc.stop(0)
        await self._http.stop()
        await self._housekeeping.stop()
        await self._web.close()
        await self._limits.close()
        await self._model.close()
        await self._database.close()
        logger.info("stopped")

    async def _start_grpc(self) -> None:
        chat = ChatService(
            database=self._database,
            engine=self._engine,
            clock=self._clock,
            uploads=Uploads(limit=self._settings.max_attachment_bytes),
            catalog=self._catalog,
            default_model=self._settings.default_model,
            max_content_bytes=self._settings.max_content_bytes,
        )
        build = Build(
            version=version("metamorphd"),
            settings=self._settings.shown(),
            warnings=self._settings.warnings,
            model_source=self._model.source,
            start_time=self._clock.now(),
        )
        admin = AdminService(
            database=self._database,
            engine=self._engine,
            revocations=self._revocations,
            clock=self._clock,
            build=build,
        )
        vault = VaultService(database=self._database, clock=self._clock)
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(chat, self._grpc)
        vault_service_pb2_grpc.add_VaultServiceServicer_to_server(vault, self._grpc)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._grpc)
        self._health.add_to(self._grpc)
        add_reflection(self._grpc, [*NAMES, health.NAME])
        await self._health.start()
        self.grpc_port = self._listen()
        await self._grpc.start()

    def _listen(self) -> int:
        address, port = self._settings.listen_address, self._settings.grpc_port
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        tls = _tls(self._settings)
        try:
            if tls is not None:
                return self._grpc.add_secure_port(where, Certificates(tls).credentials())
            return self._grpc.add_insecure_port(where)
        except RuntimeError as exc:
            raise StartupRefused(f"cannot listen on port {port} for gRPC; set GRPC_PORT to a free one") from exc


def _catalog(settings: Settings) -> Catalog:
    catalog = load_catalog(settings.model_catalog)
    for name, model in (
        ("DEFAULT_MODEL", settings.default_model),
        ("SESSION_TITLE_MODEL", settings.session_title_model or settings.default_model),
    ):
        if not catalog.accepts(model):
            names = ", ".join(known.model for known in catalog.models)
            raise StartupRefused(f"{name} {model} is not in the model catalog, which has {names}")
    return catalog


def _terms(settings: Settings, catalog: Catalog) -> Terms:
    return Terms(
        catalog=catalog,
        default_model=settings.default_model,
        max_output_tokens=settings.max_output_tokens,
        max_running_turns=settings.max_running_turns,
        compact_above=settings.compaction_trigger_tokens,
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


def _tls(settings: Settings) -> Tls | None:
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    return Tls(settings.grpc_tls_cert, settings.grpc_tls_key.get_secret_value(), settings.grpc_tls_client_ca)


def _verifier(settings: Settings, *, clock: Clock, web: Web, revocations: Revocations) -> TokenVerifier:
    emblem = None
    if settings.emblem_api_url:
        emblem = EmblemApi(url=settings.emblem_api_url, web=web, permissions=PERMISSIONS)
    return TokenVerifier(
        permissions=PERMISSIONS,
        secrets=settings.jwt_secrets,
        key_set=KeySet(url=settings.emblem_jwks_url, web=web) if settings.emblem_jwks_url else None,
        emblem=emblem,
        revocations=revocations,
        clock=clock,
        issuer=settings.emblem_jwt_issuer,
        audience=settings.emblem_jwt_audience,
    )


def _guards(settings: Settings, *, verifier: TokenVerifier, limits: Limits) -> list[Guard]:
    """In the order of API.md; each guard says why it stands where it does."""
    requests, window = settings.rate_limit_requests, settings.rate_limit_window_seconds
    failures = RateLimit(requests=settings.auth_failure_requests, window_seconds=window)
    return [
        Authenticate(verifier=verifier, dev_mode=settings.emblem_dev_mode, failures=failures),
        authorize,
        LimitRate(
            general=limits.limit("general", requests=requests, window_seconds=window),
            # Resuming and looking after a turn that is paid for already.
            resume=limits.limit("resume", requests=requests * RESUME_FACTOR, window_seconds=window),
        ),
    ]


def _limits(settings: Settings) -> Limits:
    if settings.rate_limit_storage is None or settings.rate_limit_requests == 0:
        return MemoryLimits()
    # Imported where it is wanted: the library and its client take a tenth of a second and ten megabytes.
    shared = importlib.import_module("metamorphd.edge.shared_rate_limit")
    limits: Limits = shared.SharedLimits(settings.rate_limit_storage.get_secret_value())
    return limits


async def serve(settings: Settings, *, announce: Callable[[Server], None] = lambda _: None) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once. Raises StartupRefused."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    # The writer thread waits so long for the interpreter, several times a commit; the default, 5 ms, is felt.
    sys.setswitchinterval(SWITCH_SECONDS)
    server = Server(settings)
    await server.start()
    # What start-up made stays: left among the young, a collection walks it all and holds every call up for 0.1 s.
    gc.collect()
    gc.freeze()
    announce(server)
    await stopping.wait()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(signum)
    await server.stop(grace_seconds=settings.shutdown_grace_seconds)
