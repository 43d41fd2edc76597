"""Turns: the models that are accepted, the one that is asked, and the engine."""

from metamorphd.catalog import Catalog, load_catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.chat.prompts import Prompts
from metamorphd.chat.recall import Recall
from metamorphd.chat.titles import Titles
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.clock import Clock
from metamorphd.errors import StartupRefused
from metamorphd.in_flight import BytesInFlight
from metamorphd.llm.claude import Claude
from metamorphd.llm.interface import Model
from metamorphd.llm.offline import Offline
from metamorphd.memories.memories import Memories
from metamorphd.memories.tool import MemoryTool
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.store.turns.terms import Terms

LEASE_MICROSECONDS = 30_000_000


def make_catalog(settings: Settings, clock: Clock) -> Catalog:
    """Returns the models that are accepted. Raises StartupRefused if the settings name another one."""
    catalog = load_catalog(settings.model_catalog, now=clock.now())
    for name, model in (
        ("DEFAULT_MODEL", settings.default_model),
        ("SESSION_TITLE_MODEL", settings.session_title_model or settings.default_model),
    ):
        if not catalog.accepts(model):
            names = ", ".join(known.model for known in catalog.models)
            raise StartupRefused(f"{name} {model} is not in the model catalog, which contains {names}")
    return catalog


def make_model(settings: Settings) -> Model:
    """Returns where replies come from: the provider, or without a key the server itself."""
    if settings.anthropic_api_key is None:
        return Offline()
    return Claude(
        api_key=settings.anthropic_api_key.get_secret_value(),
        base_url=settings.anthropic_base_url,
        max_retries=settings.anthropic_max_retries,
        stall_seconds=settings.anthropic_stall_seconds,
        compact_above=settings.compaction_trigger_tokens,
    )


def make_engine(
    settings: Settings,
    *,
    database: Database,
    model: Model,
    catalog: Catalog,
    memories: Memories,
    clock: Clock,
    memory: BytesInFlight,
    metrics: TurnMetrics,
) -> TurnEngine:
    """Returns the engine of turns. `memory` is for the texts of prompts."""
    titles = Titles(
        database=database,
        model=model,
        catalog=catalog,
        clock=clock,
        metrics=metrics,
        title_model=settings.session_title_model,
    )
    terms = Terms(
        catalog=catalog,
        default_model=settings.default_model,
        max_output_tokens=settings.max_output_tokens,
        max_running_turns=settings.max_running_turns,
        compact_above=settings.compaction_trigger_tokens,
        owner=clock.new_id("srv"),
        lease=LEASE_MICROSECONDS,
        storage_limit=settings.vault_storage_bytes,
    )
    return TurnEngine(
        database=database,
        model=model,
        clock=clock,
        terms=terms,
        titles=titles,
        prompts=Prompts(database=database, terms=terms, memory=memory),
        recall=Recall(database=database, memories=memories),
        memory_tool=MemoryTool(
            database=database,
            clock=clock,
            most_memories=settings.max_vault_memories,
            storage_limit=settings.vault_storage_bytes,
        ),
        metrics=metrics,
        time_limit=settings.turn_timeout_seconds,
    )
