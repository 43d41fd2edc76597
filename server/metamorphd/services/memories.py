"""VaultService: memories."""

from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.clock import Clock
from metamorphd.errors import FieldViolation, RequestInvalid
from metamorphd.memories.memories import Memories
from metamorphd.models.caller import Scope
from metamorphd.services.convert.memory import (
    changes_from_proto,
    match_to_proto,
    memory_to_proto,
    memory_type,
    new_memory_from_proto,
)
from metamorphd.services.idempotency import idempotency_key
from metamorphd.services.paging import PAGE_BYTES, clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.services.update_mask import masked
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.memories.change import delete_memory, update_memory
from metamorphd.store.memories.create import create_memory
from metamorphd.store.memories.read import get_memory, list_memories
from metamorphd.store.memories.search import words_of_query

SETTABLE = {"type", "content", "importance", "metadata", "expire_time"}
DEFAULT_MATCHES, MOST_MATCHES = 10, 100


class VaultMemories:
    """The methods of VaultService for memories."""

    _database: Database
    _clock: Clock
    _memories: Memories
    _most_memories: int
    _storage_limit: int

    async def CreateMemory(self, request: pb.CreateMemoryRequest, scope: Scope) -> pb.CreateMemoryResponse:
        (memory, created), revision = await self._database.write(
            revised(create_memory),
            scope,
            memory=new_memory_from_proto(request.memory),
            memory_id=self._clock.new_id("mem"),
            supersedes=list(request.supersedes),
            request=idempotency_key("CreateMemory", request),
            hash_key=self._clock.new_key(),
            most_memories=self._most_memories,
            storage_limit=self._storage_limit,
            now=self._clock.now(),
        )
        return pb.CreateMemoryResponse(memory=memory_to_proto(memory), created=created, revision=revision)

    async def GetMemory(self, request: pb.GetMemoryRequest, scope: Scope) -> pb.GetMemoryResponse:
        memory = await self._database.read(get_memory, scope, memory_id=request.memory_id, now=self._clock.now())
        return pb.GetMemoryResponse(memory=memory_to_proto(memory))

    async def ListMemories(self, request: pb.ListMemoriesRequest, scope: Scope) -> pb.ListMemoriesResponse:
        page = await self._database.read(
            list_memories,
            scope,
            after=decode_page_token(request, scope.vault_id, request.page_token, (int, int)),
            page_size=clamp_page_size(request.page_size),
            max_size=PAGE_BYTES,
            by_use=request.order_by == pb.MEMORY_ORDER_LEAST_RECENTLY_USED_FIRST,
            type_=memory_type(request.type),
            superseded=request.superseded,
            superseded_by=request.superseded_by or None,
            now=self._clock.now(),
        )
        return pb.ListMemoriesResponse(
            memories=await convert_items(memory_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def UpdateMemory(self, request: pb.UpdateMemoryRequest, scope: Scope) -> pb.UpdateMemoryResponse:
        memory, revision = await self._database.write(
            revised(update_memory),
            scope,
            memory_id=request.memory.memory_id,
            changes=changes_from_proto(request.memory, masked(request.memory, request.update_mask, SETTABLE)),
            etag=request.memory.etag,
            storage_limit=self._storage_limit,
            now=self._clock.now(),
        )
        return pb.UpdateMemoryResponse(memory=memory_to_proto(memory), revision=revision)

    async def DeleteMemory(self, request: pb.DeleteMemoryRequest, scope: Scope) -> pb.DeleteMemoryResponse:
        _, revision = await self._database.write(
            revised(delete_memory), scope, memory_id=request.memory_id, etag=request.etag, now=self._clock.now()
        )
        return pb.DeleteMemoryResponse(revision=revision)

    async def SearchMemories(self, request: pb.SearchMemoriesRequest, scope: Scope) -> pb.SearchMemoriesResponse:
        if not words_of_query(request.query):
            raise RequestInvalid(violations=[FieldViolation("query", "contains no words")])
        found = await self._memories.search(
            scope,
            query=request.query,
            type_=memory_type(request.type),
            limit=min(request.page_size or DEFAULT_MATCHES, MOST_MATCHES),
        )
        return pb.SearchMemoriesResponse(results=await convert_items(match_to_proto, found))
