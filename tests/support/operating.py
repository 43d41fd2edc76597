"""What operators do to vaults."""

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from tests.support.caller import Caller
from tests.support.serving import Serving


def operator_of(running: Serving, vault: str = "ops") -> Caller:
    """Returns an operator, who is a user of another vault."""
    return running.caller(vault=vault, user="root", operator=True, permissions=[])


async def suspend(operator: Caller, vault_id: str = "acme", reason: str = "unpaid") -> pb.SuspendVaultResponse:
    """Suspends a vault."""
    request = pb.SuspendVaultRequest(vault_id=vault_id, reason=reason)
    response: pb.SuspendVaultResponse = await operator.admin.SuspendVault(request, metadata=operator.metadata)
    return response


async def resume(operator: Caller, vault_id: str = "acme") -> pb.ResumeVaultResponse:
    """Resumes a vault."""
    request = pb.ResumeVaultRequest(vault_id=vault_id)
    response: pb.ResumeVaultResponse = await operator.admin.ResumeVault(request, metadata=operator.metadata)
    return response
