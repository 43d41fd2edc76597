"""VaultService: leaving."""

from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.errors import ConfirmationMismatch
from metamorphd.leaving.vaults import Leaving
from metamorphd.models.caller import Scope
from metamorphd.services.convert.operation import operation_to_proto
from metamorphd.services.convert.time import timestamp


class VaultLeaving:
    """The methods of VaultService by which a vault leaves."""

    _leaving: Leaving

    async def DeleteVault(self, request: pb.DeleteVaultRequest, scope: Scope) -> pb.DeleteVaultResponse:
        if request.confirmation != scope.vault_id:
            raise ConfirmationMismatch(vault_id=scope.vault_id)
        deletion = await self._leaving.delete_vault(scope)
        return pb.DeleteVaultResponse(
            operation=operation_to_proto(deletion.operation),
            delete_time=timestamp(deletion.delete_time),
            backup_count=deletion.backups,
            backups_expire_time=timestamp(deletion.expire_time),
        )
