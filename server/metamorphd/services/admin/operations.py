"""AdminService: operations."""

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from metamorphd.models.caller import Scope
from metamorphd.operations import Operations
from metamorphd.services.convert.operation import operation_to_proto
from metamorphd.services.paging import clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.operations import LAST_ID


class AdminOperations:
    """The methods of AdminService on operations."""

    _operations: Operations

    async def GetAnyOperation(self, request: pb.GetAnyOperationRequest, scope: Scope) -> pb.GetAnyOperationResponse:
        found = await self._operations.get(scope.of_vault(request.vault_id), request.operation_id)
        return pb.GetAnyOperationResponse(operation=operation_to_proto(found))

    async def ListAllOperations(
        self, request: pb.ListAllOperationsRequest, scope: Scope
    ) -> pb.ListAllOperationsResponse:
        token = decode_page_token(request, "", request.page_token, (str,))
        after = LAST_ID if token is None else str(token[0])
        # Not limited by size: an operation has at most a kilobyte or so.
        size = clamp_page_size(request.page_size)
        if request.HasField("vault_id"):
            page = await self._operations.list(scope.of_vault(request.vault_id), after=after, page_size=size)
        else:
            page = await self._operations.list_all(scope, after=after, page_size=size)
        return pb.ListAllOperationsResponse(
            operations=await convert_items(operation_to_proto, page.items),
            next_page_token=encode_page_token(request, "", page.next_after),
        )

    async def CancelAnyOperation(
        self, request: pb.CancelAnyOperationRequest, scope: Scope
    ) -> pb.CancelAnyOperationResponse:
        found = await self._operations.cancel(scope.of_vault(request.vault_id), request.operation_id)
        return pb.CancelAnyOperationResponse(operation=operation_to_proto(found))
