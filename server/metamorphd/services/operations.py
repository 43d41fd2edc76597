"""VaultService: operations."""

from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.models.caller import Scope
from metamorphd.operations import Operations
from metamorphd.services.convert.operation import operation_to_proto
from metamorphd.services.paging import clamp_page_size, decode_page_token, encode_page_token
from metamorphd.store.operations import LAST_ID


class VaultOperations:
    """The methods of VaultService on operations."""

    _operations: Operations

    async def GetOperation(self, request: pb.GetOperationRequest, scope: Scope) -> pb.GetOperationResponse:
        found = await self._operations.get(scope, request.operation_id)
        return pb.GetOperationResponse(operation=operation_to_proto(found))

    async def ListOperations(self, request: pb.ListOperationsRequest, scope: Scope) -> pb.ListOperationsResponse:
        after = decode_page_token(request, scope.vault_id, request.page_token, (str,))
        page = await self._operations.list(
            scope,
            after=LAST_ID if after is None else str(after[0]),
            # Not limited by size: a vault keeps a hundred or so, of a few hundred bytes.
            page_size=clamp_page_size(request.page_size),
        )
        return pb.ListOperationsResponse(
            operations=map(operation_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )

    async def CancelOperation(self, request: pb.CancelOperationRequest, scope: Scope) -> pb.CancelOperationResponse:
        found = await self._operations.cancel(scope, request.operation_id)
        return pb.CancelOperationResponse(operation=operation_to_proto(found))
