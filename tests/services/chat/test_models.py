"""Models, through a whole server."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb

from tests.support.caller import Caller, send_request
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.refusal import refused
from tests.support.serving import asking, replies_from
from tests.support.usage import CATALOG, MODEL


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api) | {"compaction_trigger_tokens": 0}


async def test_models_are_listed_by_name_with_prices_and_deprecations(alice: Caller) -> None:
    models = (await alice.chat.ListModels(pb.ListModelsRequest(), metadata=alice.metadata)).models
    assert [model.model for model in models] == [model.model for model in CATALOG.models]
    assert [model.model for model in models if model.is_default] == [MODEL]
    haiku, retiring = models[1], models[3]
    assert [(price.above_input_tokens, price.input_usd_nanos) for price in haiku.prices] == [(0, 100), (100_000, 500)]
    assert (haiku.context_tokens, haiku.max_output_tokens) == (1_000_000, 128_000)
    assert not haiku.HasField("retire_time")
    assert (retiring.retire_time.ToJsonString(), retiring.successor) == ("2026-11-30T00:00:00Z", MODEL)


async def test_an_unknown_model_is_refused_in_every_request(alice: Caller) -> None:
    plain = await alice.create_session()
    named = await alice.create_session(model="claude-x")
    (await alice.send(plain.session_id))
    message_id = (await alice.messages(plain.session_id))[0].message_id
    request = vault_pb.UpdateVaultRequest(
        vault=vault_pb.Vault(default_model="claude-x"), update_mask=FieldMask(paths=["default_model"])
    )
    await alice.vault.UpdateVault(request, metadata=alice.metadata)
    regenerate = pb.RegenerateReplyRequest(
        user_message_id=message_id, options=generation_pb2.GenerationOptions(model="claude-x")
    )
    count = pb.CountTokensRequest(message=send_request(plain.session_id))
    for call in (
        alice.start(plain.session_id, model="claude-x").call,
        alice.start(named.session_id).call,
        alice.start(plain.session_id).call,
        alice.chat.RegenerateReply(regenerate, metadata=alice.metadata),
        alice.chat.CountTokens(count, metadata=alice.metadata),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "MODEL_NOT_ACCEPTED")
        assert refusal.info.metadata == {"model": "claude-x"}
    assert len(await alice.messages(plain.session_id)) == 2
    assert await alice.messages(named.session_id) == []


# The SDK warns of deprecated models.
@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_a_reply_is_limited_to_the_maximum_of_its_model(api: FakeMessagesApi, tmp_path: Path) -> None:
    async with asking(api, tmp_path, compaction_trigger_tokens=0, max_output_tokens=131_072) as running:
        alice = running.caller()
        for model in (MODEL, "claude-sonnet-4-5"):
            await alice.send((await alice.create_session(model=model)).session_id)
    assert [request.body["max_tokens"] for request in api.requests] == [128_000, 64_000]
