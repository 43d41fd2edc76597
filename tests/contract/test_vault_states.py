"""In a suspended vault, every method is refused that does not say otherwise, and every write that does not conclude."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.api.v1.options_pb2 import Permission
from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest
from metamorph_client.vault.v1 import vault_service_pb2 as vault
from metamorph_client.vault.v1.memory_pb2 import MEMORY_TYPE_SEMANTIC, Memory
from metamorphd.edge.methods import Method
from metamorphd.store.database import is_concluding

from tests.support.caller import Caller
from tests.support.engines import ENGINES
from tests.support.operating import operator_of, suspend
from tests.support.refusal import Refusal, refused
from tests.support.rpcs import METHODS, call, fill
from tests.support.serving import Serving
from tests.support.statements import statements

# Methods of callers that are answered whatever the state of the vault, with the reason.
IN_ANY_STATE = {
    "GetOperation": "how far the erasing of a deleted vault is",
    "ListOperations": "finds the operation that erases a deleted vault",
    "WhoAmI": "says who the caller is, and nothing of the vault",
}
# Operations that callers' calls have begun, and that a suspension must not stop, with the reason.
CONCLUDING = {
    "append_events": "a turn that is being cancelled keeps what it has read",
    "count_deleted_usage": "what was used is paid for",
    "discard_import": "what an import has staged is erased",
    "end_import_step": "an import that is decided is whole",
    "end_operation": "the end of an operation, which may be that it is refused",
    "finish_turn": "the end of a cancelled turn, with its partial reply",
    "set_title": "counts what the title has cost",
}
OPERATORS = {name for name, method in METHODS.items() if Permission.PERMISSION_OPERATOR in method.requires}


def valid(method: Method) -> Any:
    """Returns a request of a method that passes its rules. What it names need not exist."""
    request: Any = method.request_type()
    fill(request, "ses_0")
    for field in request.DESCRIPTOR.fields:
        if field.name in ("session", "vault"):
            getattr(request, field.name).SetInParent()
        if field.name.endswith("_id") and field.name not in ("request_id", "session_id"):
            setattr(request, field.name, "id_0")
    also: dict[str, Callable[[], Any]] = {
        "CreateMemory": lambda: vault.CreateMemoryRequest(memory=Memory(type=MEMORY_TYPE_SEMANTIC, content="Tea")),
        "UpdateMemory": lambda: vault.UpdateMemoryRequest(
            memory=Memory(memory_id="mem_0", content="Tea"), update_mask=FieldMask(paths=["content"])
        ),
        "DestroySecretVersion": lambda: vault.DestroySecretVersionRequest(name="token", version=1),
        "DeleteVault": lambda: vault.DeleteVaultRequest(confirmation="acme"),
        "PutSecret": lambda: vault.PutSecretRequest(name="token", value=b"1"),
    }
    if method.name in also:
        return also[method.name]()
    if "name" in request.DESCRIPTOR.fields_by_name:
        request.name = "token"
    return request


async def answer(asked: Any) -> str:
    """Returns OK, or the reason of a refusal."""
    try:
        await asked
    except grpc.aio.AioRpcError as error:
        return Refusal(error).reason
    return "OK"


def test_methods_of_callers_that_are_answered_in_any_state_have_a_reason() -> None:
    listed = {method.name for name, method in METHODS.items() if method.in_any_vault_state and name not in OPERATORS}
    assert listed == IN_ANY_STATE.keys()


def test_operations_that_conclude_have_a_reason() -> None:
    functions = {each.operation: each.function for each in statements(ENGINES[0].name) if each.tenant}
    assert {name for name, function in functions.items() if function and is_concluding(function)} == CONCLUDING.keys()


async def test_every_method_of_a_suspended_vaults_callers_is_refused_unless_listed(
    running: Serving, alice: Caller
) -> None:
    await suspend(operator_of(running))
    for path in METHODS.keys() - OPERATORS:
        method = METHODS[path]
        if method.name in IN_ANY_STATE:
            assert await answer(call(alice, method, valid(method))) in ("OK", "OPERATION_NOT_FOUND")
        else:
            refusal = await refused(call(alice, method, valid(method)))
            found = path, refusal.code.name, refusal.reason, refusal.fields
            assert found == (path, "FAILED_PRECONDITION", "VAULT_SUSPENDED", [])
            assert refusal.info.metadata["suspend_reason"] == "unpaid"


async def test_a_request_is_validated_before_the_state_is_checked(running: Serving, alice: Caller) -> None:
    await suspend(operator_of(running))
    refusal = await refused(alice.chat.GetSession(GetSessionRequest(), metadata=alice.metadata))
    assert refusal.code.name == "INVALID_ARGUMENT"
    reader = running.caller(permissions=["read"])
    assert (await refused(reader.create_session())).code.name == "PERMISSION_DENIED"


async def test_an_operator_whose_own_vault_is_suspended_still_operates(running: Serving) -> None:
    operator = operator_of(running, vault="acme")
    reasons = set()
    for path in OPERATORS:
        await suspend(operator)
        method = METHODS[path]
        answers = call(operator, method, valid(method))
        try:
            await (anext(aiter(answers)) if method.streams_responses else answers)
        except grpc.aio.AioRpcError as error:
            reasons.add(Refusal(error).reason)
    assert "VAULT_SUSPENDED" not in reasons
