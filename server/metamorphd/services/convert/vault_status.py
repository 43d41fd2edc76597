"""Converts the states of vaults to protobuf."""

from metamorph_client.admin.v1 import vault_pb2 as pb

from metamorphd.models.vault import VaultState, VaultStatus
from metamorphd.services.convert.time import timestamp

STATES = {state: pb.VaultState.Value(f"VAULT_STATE_{state.name}") for state in VaultState}


def vault_status_to_proto(status: VaultStatus) -> pb.VaultStatus:
    """Returns the state of a vault."""
    return pb.VaultStatus(
        vault_id=status.vault_id,
        state=STATES[status.state],
        reason=status.reason,
        actor=status.actor,
        change_time=timestamp(status.change_time),
    )
