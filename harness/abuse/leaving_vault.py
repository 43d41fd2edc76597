"""A large vault is deleted and erased, while another one is served as if it were alone."""

import asyncio
import time
from contextlib import ExitStack

from rich.progress import Progress

from harness.abuse.expensive_neighbour import API, NICE, Measured, busy, compared
from harness.abuse.subject import subject
from harness.figure import NOT_MEASURED, Figure
from harness.run import Run
from tests.support.caller import Caller, calling
from tests.support.generated.files import FILES, measurable
from tests.support.generated.layout import LARGE_VAULT, Layout
from tests.support.leaving import delete, operation, tables_of
from tests.support.processes import service
from tests.support.tokens import mint

WARM_UP_SECONDS = 2.0
LOOK_SECONDS = 0.5
# Until an operator releases the vault, and for good.
KEPT = {"changes", "log_beginnings", "operations", "vault_states", "erased_vaults"}


async def leaving_vault(
    run: Run,
    *,
    messages: int = 400_000,
    vaults: int = 200,
    idle_seconds: float = 20,
    most_seconds: float = 3_600,
    floor_milliseconds: float = 5,
    most_ratio: float = 3,
    most_gap_milliseconds: float = 250,
    most_answer_milliseconds: float = 500,
) -> list[Figure]:
    """Measures another vault's calls before the deletion and until all of the vault, a quarter of the file, is erased.

    An idle p99 below `floor_milliseconds` counts as that: below it, the machine's scheduler makes the difference.
    """
    with ExitStack() as stack:
        layout = Layout(messages, vaults)
        file = await asyncio.to_thread(stack.enter_context, measurable(layout, FILES, Progress(disable=True)))
        (run.directory / "metamorph.db").symlink_to(file)
        rows = tables_of(run.directory, LARGE_VAULT)
        api = stack.enter_context(service(API, run.directory, wrapper=NICE))
        environment = {
            "DATABASE_PATH": str(file),
            "ANTHROPIC_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": f"http://{api.target}",
        }
        server = stack.enter_context(subject(run.directory, mutant=run.mutant, environment=environment))
        async with busy(server) as neighbour, calling(server.target, mint(LARGE_VAULT)) as leaving:
            await neighbour.measured(0)
            await neighbour.measured(WARM_UP_SECONDS)
            idle = await neighbour.measured(idle_seconds)
            answer, seconds = await _erased(leaving, most_seconds)
            erasing: Measured = await neighbour.measured(0)
        count = sum(rows.values())
        left = tables_of(run.directory, LARGE_VAULT)
        return [
            *compared(idle, erasing, floor=floor_milliseconds, most_ratio=most_ratio, most_gap=most_gap_milliseconds),
            Figure("answer of DeleteVault", answer * 1000, "ms", "≤", most_answer_milliseconds),
            Figure("time until the vault was erased", seconds, "s", "≤", most_seconds, f"{count:,} rows"),
            Figure(
                "rows that are left",
                sum(count for table, count in left.items() if table not in KEPT),
                "",
                "=",
                0,
                str(left),
            ),
        ]


async def _erased(leaving: Caller, most_seconds: float) -> tuple[float, float]:
    """Deletes the vault. Returns after how many seconds that was answered, and after how many the vault was erased."""
    began = time.monotonic()
    answer = await delete(leaving, LARGE_VAULT)
    answered = time.monotonic() - began
    while time.monotonic() - began < most_seconds:
        if (await operation(leaving, answer.operation.operation_id)).done:
            return answered, time.monotonic() - began
        await asyncio.sleep(LOOK_SECONDS)
    return answered, NOT_MEASURED
