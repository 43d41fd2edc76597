"""VaultService: exports and imports."""

import contextlib
from collections.abc import AsyncIterator

from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.errors import FieldViolation, PermissionMissing, RequestInvalid
from metamorphd.models.caller import Scope
from metamorphd.services.convert.export import export_to_proto
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports

SECRETS_READ = "secrets:read"


class VaultTransfers:
    """The methods of VaultService for exports and imports."""

    _exports: Exports
    _imports: Imports

    async def ExportVault(self, request: pb.ExportVaultRequest, scope: Scope) -> AsyncIterator[pb.ExportVaultResponse]:
        if request.export_id:
            if request.secrets_recipient:
                raise _invalid("secrets_recipient", "must not be set with export_id")
            found = await self._exports.take(scope, export_id=request.export_id)
        else:
            if request.offset:
                raise _invalid("offset", "must not be set without export_id")
            if request.secrets_recipient and SECRETS_READ not in scope.actor.permissions:
                raise PermissionMissing(permission=SECRETS_READ)
            found = await self._exports.begin(scope, recipient=request.secrets_recipient)
        yield pb.ExportVaultResponse(export=export_to_proto(found.described))
        async with contextlib.aclosing(self._exports.read(found, offset=request.offset)) as read:
            async for data in read:
                yield pb.ExportVaultResponse(data=data)

    async def ImportVault(self, requests: AsyncIterator[pb.ImportVaultRequest], scope: Scope) -> pb.ImportVaultResponse:
        async def chunks() -> AsyncIterator[bytes]:
            async for request in requests:
                yield request.data

        imported, revision, operation_id = await self._imports.receive(scope, chunks())
        return pb.ImportVaultResponse(
            imported_counts=imported.stored,
            skipped_counts=imported.skipped,
            revision=revision,
            operation_id=operation_id,
        )


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid(violations=[FieldViolation(field, description)])
