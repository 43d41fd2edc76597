"""The mark of a revision, while the vault is not there yet."""

from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.vault.v1 import vault_service_pb2 as pb

from tests.support.caller import Caller
from tests.support.operating import operator_of
from tests.support.serving import Serving


async def watched(caller: Caller, after_revision: int, after_mark: str = "") -> pb.WatchVaultResponse:
    """Returns the first response of a watch."""
    request = pb.WatchVaultRequest(after_revision=after_revision, after_mark=after_mark)
    response: pb.WatchVaultResponse = await anext(aiter(caller.vault.WatchVault(request, metadata=caller.metadata)))
    return response


async def test_an_entry_of_before_the_vault_has_no_mark_by_which_its_author_could_be_guessed(
    running: Serving, alice: Caller
) -> None:
    operator = operator_of(running)
    limits = admin.UpdateVaultLimitsRequest(limits=admin.VaultLimits(vault_id="acme", storage_bytes=10**6))
    limits.update_mask.paths.append("storage_bytes")
    await operator.admin.UpdateVaultLimits(limits, metadata=operator.metadata)
    first = await watched(alice, 0)
    assert (first.revision, first.mark) == (1, "")
    await alice.create_session()
    # Nobody was restored.
    after = await watched(alice, first.revision, first.mark)
    assert [change.revision for change in after.changes] == [2, 3]
    assert len(after.mark) == 32
