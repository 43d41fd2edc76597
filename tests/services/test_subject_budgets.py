"""Budgets of users and of labels, in a whole server whose replies come from a Messages API."""

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1 import admin_service_pb2 as admin_pb
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb
from metamorph_client.vault.v1.usage_pb2 import Budget, LabelBudget, SubjectBudgets, UserBudget

from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.refusal import Refusal, refused
from tests.support.serving import Serving, asking, replies_from
from tests.support.usage import MODEL, allow, allow_subjects, budgets, subject_budgets, update

NOTHING, LITTLE, MUCH = Budget(tokens_per_day=0), Budget(tokens_per_day=1), Budget(tokens_per_day=10**9)


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api) | {"compaction_trigger_tokens": 0}


async def vault_of(caller: Caller) -> vault_pb.Vault:
    return (await caller.vault.GetVault(vault_pb.GetVaultRequest(), metadata=caller.metadata)).vault


async def limit(operator: Caller, vault_id: str, **fields: Any) -> admin_pb.VaultLimits:
    """Sets the operator's budgets of a vault's users and labels."""
    request = admin_pb.UpdateVaultLimitsRequest(
        limits=admin_pb.VaultLimits(vault_id=vault_id, subject_budgets=subject_budgets(**fields)),
        update_mask=FieldMask(paths=["subject_budgets"]),
    )
    return (await operator.admin.UpdateVaultLimits(request, metadata=operator.metadata)).limits


async def sent(caller: Caller, **labels: str) -> bool:
    """Returns whether a turn with these labels starts, in a new session."""
    session = await caller.create_session()
    try:
        await caller.send(session.session_id, labels=labels)
    except grpc.aio.AioRpcError as error:
        if Refusal(error).reason != "BUDGET_EXCEEDED":
            raise
        return False
    return True


async def test_a_vault_shows_its_own_and_its_operators_budgets(running: Serving, alice: Caller) -> None:
    operator = running.caller(operator=True, vault="ops")
    set_by_operator = await limit(operator, "acme", default_user=MUCH, labels={"b=": MUCH, "a=1": LITTLE})
    assert [each.label for each in set_by_operator.subject_budgets.labels] == ["a=1", "b="]
    vault = await allow_subjects(alice, users={"zoe": LITTLE, "bob": Budget()})
    assert vault.subject_budgets == SubjectBudgets(
        users=[UserBudget(user_id="bob", budget=Budget()), UserBudget(user_id="zoe", budget=LITTLE)]
    )
    assert vault.operator_subject_budgets == set_by_operator.subject_budgets
    assert await vault_of(alice) == vault
    # Other fields are set, and these stay.
    await allow(alice, tokens_per_day=7)
    await update(alice, display_name="Acme")
    changed = await vault_of(alice)
    assert (changed.subject_budgets, changed.etag) != (vault.subject_budgets, vault.etag)
    assert changed.subject_budgets == vault.subject_budgets
    request = admin_pb.GetVaultLimitsRequest(vault_id="acme")
    read = (await operator.admin.GetVaultLimits(request, metadata=operator.metadata)).limits
    assert read == set_by_operator
    # All of them are replaced.
    vault = await allow_subjects(alice, labels={"c=": NOTHING})
    assert vault.subject_budgets == SubjectBudgets(labels=[LabelBudget(label="c=", budget=NOTHING)])
    assert vault.operator_subject_budgets == set_by_operator.subject_budgets
    await allow_subjects(alice)
    assert (await vault_of(alice)).subject_budgets == SubjectBudgets()
    other = running.caller(vault="other")
    assert (await vault_of(other)).operator_subject_budgets == SubjectBudgets()


@pytest.mark.parametrize(
    ("budgets_", "field"),
    [
        (SubjectBudgets(users=[UserBudget(user_id="a")] * 2), "vault.subject_budgets"),
        (SubjectBudgets(labels=[LabelBudget(label="a=")] * 2), "vault.subject_budgets"),
        (SubjectBudgets(users=[UserBudget(user_id=str(n)) for n in range(101)]), "vault.subject_budgets.users"),
        (SubjectBudgets(labels=[LabelBudget(label=f"{n}=") for n in range(101)]), "vault.subject_budgets.labels"),
        (SubjectBudgets(users=[UserBudget()]), "vault.subject_budgets.users[0].user_id"),
        (SubjectBudgets(labels=[LabelBudget(label="a")]), "vault.subject_budgets.labels[0].label"),
        (SubjectBudgets(default_user=Budget(tokens_per_day=-1)), "vault.subject_budgets.default_user.tokens_per_day"),
    ],
)
async def test_invalid_budgets_are_refused(alice: Caller, budgets_: SubjectBudgets, field: str) -> None:
    request = vault_pb.UpdateVaultRequest(
        vault=vault_pb.Vault(subject_budgets=budgets_), update_mask=FieldMask(paths=["subject_budgets"])
    )
    refusal = await refused(alice.vault.UpdateVault(request, metadata=alice.metadata))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", [field])


async def test_the_most_budgets_are_all_stored(alice: Caller) -> None:
    users = {f"{number:0256}": MUCH for number in range(100)}
    labels = {f"{number:063}={number:063}": MUCH for number in range(100)}
    vault = await allow_subjects(alice, default_user=MUCH, users=users, labels=labels)
    assert vault.subject_budgets == subject_budgets(default_user=MUCH, users=users, labels=labels)


async def test_the_default_holds_for_each_user_without_a_budget(running: Serving, alice: Caller) -> None:
    bob, zoe = running.caller(user="bob"), running.caller(user="zoe")
    await allow_subjects(alice, default_user=LITTLE, users={"zoe": Budget()})
    assert [await sent(caller) for caller in (alice, alice, bob, bob, zoe, zoe)] == [
        *(True, False),
        *(True, False),
        *(True, True),
    ]
    # The operator's default holds beside the vault's exception.
    await limit(running.caller(operator=True, vault="ops"), "acme", default_user=NOTHING)
    assert not await sent(zoe)
    assert await sent(running.caller(vault="other"))


async def test_a_label_has_a_budget_wherever_it_is(running: Serving, alice: Caller) -> None:
    bob = running.caller(user="bob")
    await allow_subjects(alice, labels={"team=web": LITTLE})
    assert await sent(alice, team="web")
    session = await alice.create_session(labels={"team": "web"})
    refusal = await refused(bob.start(session.session_id).call)
    assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "BUDGET_EXCEEDED")
    (status,) = (await budgets(alice, label="team=web")).values()
    tomorrow = status.reset_time.ToJsonString()
    assert refusal.info.metadata == {
        "subject": "label:team=web",
        "budget": "tokens_per_day",
        "limit": "1",
        "reset_time": tomorrow,
    }
    assert [quota.subject for quota in refusal.quotas.violations] == ["label:team=web/tokens_per_day"]
    assert refusal.retry is not None
    assert not await sent(bob, team="web", feature="search")
    assert await sent(bob, team="core")
    assert await sent(bob)
    assert await sent(running.caller(vault="other"), team="web")
    assert await alice.messages(session.session_id) == []


async def test_a_refusal_names_what_is_used_up_and_fits_into_its_trailers(running: Serving, alice: Caller) -> None:
    wide = running.caller(user="\U0001f30a" * 256)
    nothing = Budget(tokens_per_day=0, tokens_per_month=0, cost_usd_nanos_per_day=0, cost_usd_nanos_per_month=0)
    labels = {f"{number:063}": "x" * 63 for number in range(8)}
    named = {f"{key}={value}": nothing for key, value in labels.items()}
    await allow_subjects(alice, default_user=nothing, labels=named)
    refusal = await refused(wide.start((await wide.create_session(labels=labels)).session_id).call)
    assert refusal.info.metadata["subject"] == "user"
    assert refusal.info.metadata["budget"] == "tokens_per_month"
    assert [quota.subject for quota in refusal.quotas.violations] == [
        *(f"user/{name.name}" for name in Budget.DESCRIPTOR.fields),
        *(f"label:{min(named)}/{name.name}" for name in Budget.DESCRIPTOR.fields),
    ]


async def test_usage_shows_the_budgets_of_the_caller_or_of_those_that_it_is_asked_for(
    running: Serving, alice: Caller
) -> None:
    bob = running.caller(user="bob")
    await allow(alice, tokens_per_day=10**9)
    await allow_subjects(alice, default_user=MUCH, users={"bob": LITTLE}, labels={"team=web": MUCH})
    assert await sent(alice, team="web")
    mine = await budgets(alice)
    assert mine.keys() == {"tokens_per_day", "alice/tokens_per_day"}
    assert mine["alice/tokens_per_day"].used == mine["tokens_per_day"].used > 0
    assert (await budgets(alice, user_id="bob"))["bob/tokens_per_day"].used == 0
    assert (await budgets(bob))["bob/tokens_per_day"].limit == 1
    web = (await budgets(bob, label="team=web"))["team=web/tokens_per_day"]
    assert (web.used, web.label, web.user_id) == (mine["tokens_per_day"].used, "team=web", "")


async def test_a_regeneration_reserves_of_the_labels_that_it_has(alice: Caller) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, labels={"feature": "search"})
    await allow_subjects(alice, labels={"feature=search": NOTHING, "retry=": NOTHING})
    message_id = (await alice.messages(session.session_id))[0].message_id
    request = pb.RegenerateReplyRequest(user_message_id=message_id, labels={"retry": ""})
    refusal = await refused(alice.chat.RegenerateReply(request, metadata=alice.metadata))
    assert refusal.info.metadata["subject"] == "label:retry="
    request.labels.clear()
    answer = [each async for each in alice.chat.RegenerateReply(request, metadata=alice.metadata)]
    assert answer[-1].event.HasField("turn_finished")


@pytest.mark.parametrize("of", ["alice/", "team=web/"])
async def test_a_title_is_asked_for_while_the_turns_budgets_are_left(
    api: FakeMessagesApi, tmp_path: Any, of: str
) -> None:
    async with asking(api, tmp_path / "titles", compaction_trigger_tokens=0, session_title_model=MODEL) as running:
        alice = running.caller()
        await allow(alice, of, tokens_per_day=1)
        session = await alice.create_session(labels={"team": "web"})
        await alice.send(session.session_id)
        # Of another user's turn without the label there is budget left.
        bob = running.caller(user="bob")
        other = await bob.create_session()
        await bob.send(other.session_id)
        for _ in range(500):
            read = await bob.chat.GetSession(pb.GetSessionRequest(session_id=other.session_id), metadata=bob.metadata)
            if read.session.title:
                break
        assert len(api.requests) == 3
