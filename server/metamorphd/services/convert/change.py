"""Converts the log of a vault to protobuf and back."""

from collections.abc import Sequence

from metamorph_client.vault.v1 import change_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.models.change import Change, ChangedResource, ChangeFilter, ChangeVerb
from metamorphd.services.convert.time import timestamp

RESOURCES = {
    resource: change_pb2.ChangedResource.Value(f"CHANGED_RESOURCE_{resource.name}") for resource in ChangedResource
}
VERBS = {verb: change_pb2.ChangeVerb.Value(f"CHANGE_VERB_{verb.name}") for verb in ChangeVerb}


def change_to_proto(change: Change) -> change_pb2.Change:
    """Returns a change."""
    return change_pb2.Change(
        revision=change.revision,
        change_time=timestamp(change.change_time),
        actor=change.actor,
        call_id=change.call_id,
        resource=RESOURCES[change.resource],
        resource_id=change.resource_id,
        verb=VERBS[change.verb],
    )


def changes_to_proto(changes: Sequence[Change], revision: int, mark: str) -> pb.WatchVaultResponse:
    """Returns changes up to a revision, and its mark."""
    return pb.WatchVaultResponse(changes=map(change_to_proto, changes), revision=revision, mark=mark)


def filter_from_proto(request: pb.WatchVaultRequest) -> ChangeFilter:
    """Returns what a caller wants to see of a log. The request has passed the rules of its proto."""
    return ChangeFilter(
        resources=frozenset(resource for resource, number in RESOURCES.items() if number in request.resources),
        verbs=frozenset(verb for verb, number in VERBS.items() if number in request.verbs),
    )
