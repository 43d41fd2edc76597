"""Calls about memories."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.memory_pb2 import MEMORY_TYPE_SEMANTIC, Memory, MemoryMatch

from tests.support.caller import Caller


def create(
    caller: Caller,
    content: str,
    *,
    type: int = MEMORY_TYPE_SEMANTIC,  # noqa: A002, the field's name
    supersedes: Sequence[str] = (),
    request_id: str = "",
    **fields: Any,
) -> Any:
    """Creates a memory."""
    memory = Memory(type=type, content=content, **fields)  # type: ignore[arg-type]
    request = pb.CreateMemoryRequest(memory=memory, supersedes=supersedes, request_id=request_id)
    return caller.vault.CreateMemory(request, metadata=caller.metadata)


async def made(caller: Caller, content: str, **fields: Any) -> Memory:
    """Creates a memory, and returns it."""
    memory: Memory = (await create(caller, content, **fields)).memory
    return memory


def get(caller: Caller, memory_id: str) -> Any:
    """Gets a memory."""
    return caller.vault.GetMemory(pb.GetMemoryRequest(memory_id=memory_id), metadata=caller.metadata)


def update(caller: Caller, memory_id: str, *paths: str, etag: str = "", **fields: Any) -> Any:
    """Changes the fields that are given, and those named by `paths`."""
    memory = Memory(memory_id=memory_id, etag=etag, **fields)
    request = pb.UpdateMemoryRequest(memory=memory, update_mask=FieldMask(paths=[*fields, *paths]))
    return caller.vault.UpdateMemory(request, metadata=caller.metadata)


def delete(caller: Caller, memory_id: str, **fields: Any) -> Any:
    """Deletes a memory."""
    return caller.vault.DeleteMemory(pb.DeleteMemoryRequest(memory_id=memory_id, **fields), metadata=caller.metadata)


def page(caller: Caller, **query: Any) -> Any:
    """Returns a page of memories."""
    return caller.vault.ListMemories(pb.ListMemoriesRequest(**query), metadata=caller.metadata)


async def listed(caller: Caller, **query: Any) -> list[str]:
    """Returns the contents of all pages of memories."""
    found: list[str] = []
    token = ""
    while True:
        answer = await page(caller, page_token=token, **query)
        found += [memory.content for memory in answer.memories]
        token = answer.next_page_token
        if not token:
            return found


async def matches(caller: Caller, query: str, **fields: Any) -> list[MemoryMatch]:
    """Returns what a search finds."""
    request = pb.SearchMemoriesRequest(query=query, **fields)
    return list((await caller.vault.SearchMemories(request, metadata=caller.metadata)).results)


async def searched(caller: Caller, query: str, **fields: Any) -> list[str]:
    """Returns the contents of what a search finds."""
    return [match.memory.content for match in await matches(caller, query, **fields)]
