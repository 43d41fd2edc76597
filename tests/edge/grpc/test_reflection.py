"""What reflection serves is the contract, whole and small."""

import tracemalloc
from collections.abc import AsyncIterator

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from metamorphd.edge.grpc import reflection
from metamorphd.edge.methods import SERVICES

from scripts.docs.protos import files
from tests.support.caller import Caller
from tests.support.serving import Serving

# A request for a symbol is answered with its file and all that this imports, to callers without a token.
LARGEST_ANSWER = 200 * 1024
LARGEST_MEMORY = 3 * 1024 * 1024
RULES = "buf/validate/validate.proto"


async def served(caller: Caller, symbol: str) -> tuple[int, dict[str, FileDescriptorProto]]:
    """Returns the size of the answer about a symbol, and the files in it by name."""
    stub = ServerReflectionStub(caller.channel)

    async def requests() -> AsyncIterator[ServerReflectionRequest]:
        yield ServerReflectionRequest(file_containing_symbol=symbol)

    async for answer in stub.ServerReflectionInfo(requests()):
        found = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        return answer.ByteSize(), {file.name: file for file in found}
    raise AssertionError("no answer")


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.full_name)
async def test_a_service_is_served_with_its_comments_and_rules(running: Serving, service: ServiceDescriptor) -> None:
    size, answer = await served(running.caller(token=""), service.full_name)
    assert size <= LARGEST_ANSWER
    written = {file.name: comments for file, comments in files()}
    assert answer.keys() >= {RULES}
    for file in (one for one in answer.values() if one.name in written):
        places = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        assert {path: " ".join(text.split()) for path, text in places.items()} == {
            path: text for path, text in written[file.name].items() if text
        }


async def test_every_service_that_is_listed_is_described(running: Serving) -> None:
    caller = running.caller(token="")

    async def requests() -> AsyncIterator[ServerReflectionRequest]:
        yield ServerReflectionRequest(list_services="")

    listed = [
        service.name
        async for answer in ServerReflectionStub(caller.channel).ServerReflectionInfo(requests())
        for service in answer.list_services_response.service
    ]
    assert "grpc.reflection.v1.ServerReflection" in listed
    for name in listed:
        _, answer = await served(caller, name)
        services = {f"{file.package}.{service.name}" for file in answer.values() for service in file.service}
        assert name in services


async def test_an_answer_can_be_loaded_by_itself(running: Serving) -> None:
    _, answer = await served(running.caller(token=""), "metamorph.chat.v1.ChatService.SendMessage")
    pool = descriptor_pool.DescriptorPool()

    def load(name: str) -> None:
        file = answer.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                load(dependency)
            pool.Add(file)

    load("metamorph/chat/v1/chat_service.proto")
    assert pool.FindMethodByName("metamorph.chat.v1.ChatService.SendMessage")


def test_the_comments_take_no_memory_before_somebody_asks_and_little_then() -> None:
    reflection._contract.cache_clear()
    tracemalloc.start()
    try:
        contract = reflection._contract()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= LARGEST_MEMORY
    assert sum(file.proto.ByteSize() for file in contract.values()) <= LARGEST_ANSWER
