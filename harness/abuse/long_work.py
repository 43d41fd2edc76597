"""A vault keeps the server at work that goes on, one kind after the other, while another one is served as if alone."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from metamorph_client.admin.v1.admin_service_pb2 import GetServerInfoRequest, GetServerInfoResponse
from metamorphd.clock import Clock
from metamorphd.keys.audit import make_chain
from metamorphd.keys.key_file import KeyFile, add_key
from metamorphd.keys.vault_keys import VaultKeys
from rich.progress import Progress

from harness.abuse.expensive_neighbour import API, MEBIBYTE, NICE, NICENESS, REFUSED, Busy, Measured, busy, compared
from harness.abuse.long_calls import PHASES, Tenant, work
from harness.abuse.subject import Subject, subject
from harness.figure import Figure
from harness.run import Run
from tests.support.caller import Caller
from tests.support.exports import exported
from tests.support.generated.files import FILES, measurable
from tests.support.generated.furnished import furnish
from tests.support.generated.layout import Layout
from tests.support.processes import service

WARM_UP_SECONDS = 2.0
# Until the turns that a phase has begun have ended.
MOST_SETTLE_SECONDS = 5.0
LOOK_SECONDS = 0.1
# The neighbour's own are half of these.
FEW_TURNS = 40
AUDIT_KEY = "a" * 32
KEPT_DAYS = "3650"
# To refuse these is what costs.
MEANT_TO_BE_REFUSED = {"import what is refused"}


async def long_work(
    run: Run,
    *,
    messages: int = 400_000,
    vaults: int = 200,
    memories: int = 10_000,
    keyed_vaults: int = 5_000,
    idle_seconds: float = 20,
    seconds: float = 20,
    only: int = 0,
    floor_milliseconds: float = 5,
    most_ratio: float = 3,
    most_gap_milliseconds: float = 250,
    most_mebibytes: float = 256,
) -> list[Figure]:
    """Measures another vault's calls before and during each phase; `only` is the number of the one that runs, from 1.

    An idle p99 below `floor_milliseconds` counts as that: below it, the machine's scheduler makes the difference.
    """
    phases = list(PHASES)[only - 1 : only] if only else list(PHASES)
    layout = Layout(messages, vaults)
    tenant = Tenant(layout.deep.vault_id, layout.plans()[-1].vault_id, "")
    with ExitStack() as stack:
        file = await asyncio.to_thread(stack.enter_context, measurable(layout, FILES, Progress(disable=True)))
        rows = {tenant.vault_id: memories} | {f"keyed-{number}": 1 for number in range(keyed_vaults)}
        environment = await _furnished(run.directory, file, rows)
        api = stack.enter_context(service(API, run.directory, wrapper=NICE))
        environment |= {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": f"http://{api.target}"}
        server = stack.enter_context(subject(run.directory, mutant=run.mutant, environment=environment))
        tenant.target = server.target
        async with server.caller(vault=layout.large.vault_id) as caller:
            tenant.exported = await exported(caller)
        async with busy(server) as neighbour:
            await neighbour.measured(0)
            await neighbour.measured(WARM_UP_SECONDS)
            idle = await neighbour.measured(idle_seconds)
            os.nice(NICENESS)
            async with server.growing():
                attacked = {phase: await _phase(server, neighbour, tenant, phase, seconds) for phase in phases}
        bounds = {"floor": floor_milliseconds, "most_ratio": most_ratio, "most_gap": most_gap_milliseconds}
        return [
            *(figure for phase in phases for figure in _of_phase(phase, compared(idle, attacked[phase], **bounds))),
            Figure("memory growth", server.growth * 1e6 / MEBIBYTE, "MiB", "≤", most_mebibytes),
            *_ended(tenant, phases),
        ]


async def _furnished(directory: Path, file: Path, rows: dict[str, int]) -> dict[str, str]:
    """Gives a file's vaults memories and secrets. Returns the environment of a server that can read them."""
    key_file = directory / "keys"
    add_key(key_file, now=Clock().now())
    await furnish(file, rows, keys=VaultKeys(KeyFile(key_file)), chain=make_chain([AUDIT_KEY]))
    return {
        "DATABASE_PATH": str(file),
        "TOKEN_ENCRYPTION_KEY_FILE": str(key_file),
        "AUDIT_KEY": AUDIT_KEY,
        # Generated changes are older than the defaults.
        "CHANGE_RETENTION_DAYS": KEPT_DAYS,
        "AUDIT_RETENTION_DAYS": KEPT_DAYS,
        # There is room for those that `long_calls` creates and deletes.
        "MAX_VAULT_MEMORIES": str(max(rows.values()) + 16),
    }


async def _phase(server: Subject, neighbour: Busy, tenant: Tenant, phase: str, seconds: float) -> Measured:
    """Returns what the neighbour measures in a phase."""
    async with _working(tenant, phase):
        await neighbour.measured(0)
        attacked = await neighbour.measured(seconds)
    async with server.caller(vault="operations", operator=True) as operator:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOST_SETTLE_SECONDS):
                while (await _info(operator)).running_turns > FEW_TURNS:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)
    return attacked


async def _info(operator: Caller) -> GetServerInfoResponse:
    info: GetServerInfoResponse = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
    return info


@asynccontextmanager
async def _working(tenant: Tenant, phase: str) -> AsyncIterator[None]:
    working = asyncio.create_task(work(tenant, phase))
    try:
        yield
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


def _of_phase(phase: str, figures: list[Figure]) -> list[Figure]:
    """Returns the figures that are not met, the highest ratio, the longest gap and the calls that failed."""
    *ratios, gap, failed = figures
    worst = max(ratios, key=lambda figure: figure.value)
    shown = [figure for figure in ratios if not figure.met or figure is worst]
    return [replace(each, detail=f"{phase}: {each.detail}".removesuffix(": ")) for each in (*shown, gap, failed)]


def _ended(tenant: Tenant, phases: list[str]) -> list[Figure]:
    """Returns how often each kind of call ended, and how many kinds cost nothing, because they were always refused.

    What goes on may not end within its phase.
    """
    kinds = dict.fromkeys(each.name for phase in phases for each in PHASES[phase])
    codes = {kind: {code: count for (of, code), count in tenant.ended.items() if of == kind} for kind in kinds}
    cheap = [kind for kind, of in codes.items() if of and of.keys() <= REFUSED and kind not in MEANT_TO_BE_REFUSED]
    return [
        *(
            Figure("calls", sum(ended.values()), detail=f"{kind}: {ended}".replace("'", ""))
            for kind, ended in codes.items()
        ),
        Figure("kinds of calls that were refused each time", len(cheap), "", "=", 0, ", ".join(cheap)),
    ]
