"""Long work, and calls that add up to it, by kind: what one tenant can keep a server at."""

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.chat.v1 import chat_service_pb2 as chat
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.usage_pb2 import (
    USAGE_GROUPING_DAY,
    USAGE_GROUPING_LABEL,
    USAGE_GROUPING_USER,
    Budget,
    LabelBudget,
    SubjectBudgets,
    UserBudget,
)

from harness.abuse.expensive_calls import repeat
from tests.support.caller import Caller, Events, calling
from tests.support.exports import export
from tests.support.generated.corpus import COMMON_WORDS, CORPUS
from tests.support.generated.vaults import secret_name
from tests.support.leaving import delete, operation, release
from tests.support.memories import delete as delete_memory
from tests.support.memories import made, page
from tests.support.secrets import get, listed, put, versions
from tests.support.tokens import mint

LARGEST_PAGE = 1000
MOST_PAGES = 20
# As many as may run in a vault.
TURNS = 100
WATCHERS = 20
SUBJECTS, LABELS = 100, 8
VALUE = b"v" * 65_536
SLOW_SECONDS = 0.5
LOOK_SECONDS = 0.05
SENT_BYTES = 256 * 1024
# Beyond every turn of a run.
GENEROUS = Budget(tokens_per_day=10**12)


@dataclass
class Tenant:
    """The vault that does it, and others of the same tenant. `exported` is a file that can be imported."""

    vault_id: str
    slow_vault_id: str
    target: str
    exported: bytes = b""
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=itertools.count)


Act = Callable[[Tenant, Caller], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Work:
    """A kind of call, which so many callers make, each one after the other."""

    name: str
    act: Act
    callers: int


PHASES: dict[str, list[Work]] = {}


def _work(phase: str, *, callers: int = 1) -> Callable[[Act], Act]:
    def register(act: Act) -> Act:
        name = act.__name__.removeprefix("_").replace("_", " ")
        PHASES.setdefault(phase, []).append(Work(name, act, callers))
        return act

    return register


async def work(tenant: Tenant, phase: str) -> None:
    """Makes the calls of a phase until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        for each in PHASES[phase]:
            for _ in range(each.callers):
                group.create_task(_repeat(tenant, each))


async def _repeat(tenant: Tenant, each: Work) -> None:
    async with calling(tenant.target, mint(tenant.vault_id, operator=True)) as caller:
        await repeat(tenant.ended, each.name, lambda: each.act(tenant, caller))


def _of(vault_id: str, caller: Caller, user: str = "alice") -> Caller:
    """Returns a caller of another vault, or another user, on the same connection."""
    return Caller(caller.channel, [("authorization", f"Bearer {mint(vault_id, user, operator=True)}")])


async def _read(call: Any, *, pause: float = 0.0) -> None:
    async for _ in call:
        await asyncio.sleep(pause)


@_work("export")
async def _export(_: Tenant, caller: Caller) -> None:
    await _read(export(caller))


@_work("export")
async def _export_slowly(tenant: Tenant, caller: Caller) -> None:
    await _read(export(_of(tenant.slow_vault_id, caller)), pause=SLOW_SECONDS)


@_work("exports that are begun again", callers=4)
async def _begin_export(_: Tenant, caller: Caller) -> None:
    begun = export(caller)
    await anext(aiter(begun))
    begun.cancel()


@_work("verification", callers=2)
async def _verify_audit_log(_: Tenant, caller: Caller) -> None:
    await _read(caller.admin.VerifyAuditLog(admin.VerifyAuditLogRequest(), metadata=caller.metadata))


@_work("lists of the audit that find nothing", callers=4)
async def _list_audit_events(_: Tenant, caller: Caller) -> None:
    request = pb.ListAuditEventsRequest(actor="nobody", page_size=LARGEST_PAGE)
    for _page in range(MOST_PAGES):
        response = await caller.vault.ListAuditEvents(request, metadata=caller.metadata)
        request.page_token = response.next_page_token
        if not request.page_token:
            break


@_work("secrets", callers=4)
async def _get_secret(tenant: Tenant, caller: Caller) -> None:
    await get(caller, secret_name(next(tenant.numbers) % LARGEST_PAGE))


@_work("secrets", callers=2)
async def _put_secret(tenant: Tenant, caller: Caller) -> None:
    await put(caller, f"many-{next(tenant.numbers) % 4}", VALUE)


@_work("secrets")
async def _list_secrets(_: Tenant, caller: Caller) -> None:
    await listed(caller, page_size=LARGEST_PAGE)
    await versions(caller, "many-0", page_size=LARGEST_PAGE)


@_work("rotation")
async def _rotate_data_keys(_: Tenant, caller: Caller) -> None:
    await caller.admin.RotateDataKeys(admin.RotateDataKeysRequest(), metadata=caller.metadata)
    request = admin.GetKeyRotationRequest()
    while (await caller.admin.GetKeyRotation(request, metadata=caller.metadata)).rotation.left_count:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)


@_work("memories", callers=4)
async def _search_memories(_: Tenant, caller: Caller) -> None:
    request = pb.SearchMemoriesRequest(query=" ".join(COMMON_WORDS), page_size=100)
    await caller.vault.SearchMemories(request, metadata=caller.metadata)


@_work("memories", callers=2)
async def _supersede_memories(tenant: Tenant, caller: Caller) -> None:
    number, superseded = next(tenant.numbers), ""
    for place in range(4):
        text = f"{CORPUS.texts[number % len(CORPUS.texts)]} of {place} {uuid.uuid4()}"
        memory = await made(caller, text, supersedes=[superseded] if superseded else [])
        if superseded:
            await delete_memory(caller, superseded)
        superseded = memory.memory_id
    await delete_memory(caller, superseded)


@_work("memories")
async def _list_memories(_: Tenant, caller: Caller) -> None:
    await page(caller, page_size=LARGEST_PAGE, order_by=pb.MEMORY_ORDER_LEAST_RECENTLY_USED_FIRST)


@_work("watchers", callers=WATCHERS)
async def _watch(_: Tenant, caller: Caller) -> None:
    newest = (await caller.vault.GetVault(pb.GetVaultRequest(), metadata=caller.metadata)).revision
    call = caller.vault.WatchVault(pb.WatchVaultRequest(after_revision=0), metadata=caller.metadata)
    async for response in call:
        if response.revision >= newest:
            break
    call.cancel()


@_work("usage")
async def _update_vault_limits(tenant: Tenant, caller: Caller) -> None:
    number = next(tenant.numbers)
    budgets = SubjectBudgets(
        default_user=GENEROUS,
        users=[UserBudget(user_id=f"user-{number}-{each}", budget=GENEROUS) for each in range(SUBJECTS)],
        labels=[LabelBudget(label=f"l{number}-{each}=x", budget=GENEROUS) for each in range(SUBJECTS)],
    )
    limits = admin.VaultLimits(vault_id=tenant.vault_id, subject_budgets=budgets)
    request = admin.UpdateVaultLimitsRequest(limits=limits)
    request.update_mask.paths.append("subject_budgets")
    await caller.admin.UpdateVaultLimits(request, metadata=caller.metadata)


@_work("usage", callers=16)
async def _send_with_made_up_labels(tenant: Tenant, caller: Caller) -> None:
    number = next(tenant.numbers)
    user = _of(tenant.vault_id, caller, f"user-{number}")
    session = await user.create_session()
    labels = {f"l{number}-{each}": "x" for each in range(LABELS)}
    await user.send(session.session_id, labels=labels)


@_work("usage", callers=2)
async def _get_usage(_: Tenant, caller: Caller) -> None:
    for subject in (USAGE_GROUPING_USER, USAGE_GROUPING_LABEL):
        request = pb.GetUsageRequest(group_by=[USAGE_GROUPING_DAY, subject], page_size=LARGEST_PAGE)
        await caller.vault.GetUsage(request, metadata=caller.metadata)


async def _turning(caller: Caller) -> list[Events]:
    """Starts as many turns as may run, and returns their events, without the first."""
    sessions = await asyncio.gather(*(caller.create_session() for _ in range(TURNS)))
    turns = [caller.start(session.session_id) for session in sessions]
    await asyncio.gather(*(turn.next() for turn in turns))
    return turns


@_work("turns")
async def _run_turns(_: Tenant, caller: Caller) -> None:
    await asyncio.gather(*(turn.rest() for turn in await _turning(caller)))


@_work("suspension")
async def _suspend_and_resume(tenant: Tenant, caller: Caller) -> None:
    turns = await _turning(caller)
    suspend = admin.SuspendVaultRequest(vault_id=tenant.vault_id, reason="harness")
    await caller.admin.SuspendVault(suspend, metadata=caller.metadata)
    resume = admin.ResumeVaultRequest(vault_id=tenant.vault_id)
    await caller.admin.ResumeVault(resume, metadata=caller.metadata)
    for turn in turns:
        turn.call.cancel()


@_work("leaving", callers=2)
async def _delete_and_release(tenant: Tenant, caller: Caller) -> None:
    vault_id = f"leaving-{next(tenant.numbers)}"
    leaving = _of(vault_id, caller)
    for _ in range(4):
        await leaving.chat.CreateSession(chat.CreateSessionRequest(session=Session()), metadata=leaving.metadata)
    answer = await delete(leaving, vault_id)
    while not (await operation(leaving, answer.operation.operation_id)).done:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    await release(leaving, vault_id)


async def _import(caller: Caller, *parts: bytes) -> None:
    requests = (
        pb.ImportVaultRequest(data=part[start : start + SENT_BYTES])
        for part in parts
        for start in range(0, len(part), SENT_BYTES)
    )
    await caller.vault.ImportVault(requests, metadata=caller.metadata)


@_work("imports that are refused")
async def _import_what_is_refused(tenant: Tenant, caller: Caller) -> None:
    # Its hash is at its end.
    await _import(_of(f"refused-{next(tenant.numbers)}", caller), tenant.exported[:-8], b"0" * 5 + b'"}\n')


@_work("import")
async def _import_again(tenant: Tenant, caller: Caller) -> None:
    await _import(_of(f"imported-{next(tenant.numbers)}", caller), tenant.exported)
