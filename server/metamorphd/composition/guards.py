"""The guards, in their order, and the rate limits."""

import importlib
from collections.abc import Sequence

from metamorphd.auth.tokens import TokenVerifier
from metamorphd.composition.authentication import authenticate_calls
from metamorphd.edge.guards import Authorize, Guard, LimitRate, Limits, LimitSize, Validate
from metamorphd.edge.operator_reads import OperatorReads, RecordReads
from metamorphd.edge.rate_limit import MemoryLimits
from metamorphd.edge.revisions import AwaitRevision
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database

RESUME_FACTOR = 10


def make_guards(
    settings: Settings,
    *,
    verifier: TokenVerifier,
    limits: Limits,
    database: Database,
    operator_reads: OperatorReads,
    of_role: Sequence[Guard],
) -> list[Guard]:
    """Returns the guards in the documented order of checks; each guard's docstring gives the reason for its place."""
    requests, window = settings.rate_limit_requests, settings.rate_limit_window_seconds
    return [
        authenticate_calls(settings, verifier),
        Authorize(),
        LimitRate(
            general=limits.limit("general", requests=requests, window_seconds=window),
            # Watching a vault, and resuming a turn that is already paid for.
            resume=limits.limit("resume", requests=requests * RESUME_FACTOR, window_seconds=window),
        ),
        *of_role,
        LimitSize(),
        Validate(),
        RecordReads(reads=operator_reads),
        AwaitRevision(database=database),
    ]


def make_limits(settings: Settings) -> Limits:
    """Returns where calls are counted: in this process, or in Redis for all servers that share it."""
    if settings.rate_limit_storage is None or settings.rate_limit_requests == 0:
        return MemoryLimits()
    # Imported only when used: the library and its client take a tenth of a second and ten megabytes.
    shared = importlib.import_module("metamorphd.edge.shared_rate_limit")
    limits: Limits = shared.SharedLimits(settings.rate_limit_storage.get_secret_value())
    return limits
