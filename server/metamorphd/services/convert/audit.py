"""Converts what an audit reads to protobuf and back."""

from metamorph_client.vault.v1 import audit_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.models.audit import AuditEvent, AuditFilter
from metamorphd.services.convert.change import RESOURCES, VERBS
from metamorphd.services.convert.time import microseconds, timestamp


def audit_event_to_proto(event: AuditEvent, *, names_operators: bool = False) -> audit_pb2.AuditEvent:
    """Returns an event. The server's operator is named to other operators only."""
    return audit_pb2.AuditEvent(
        revision=event.revision,
        event_time=timestamp(event.event_time),
        actor="" if event.operator and not names_operators else event.actor,
        operator=event.operator,
        call_id=event.call_id,
        resource=RESOURCES[event.resource],
        resource_id=event.resource_id,
        verb=VERBS[event.verb],
        details=event.details,
        key_id=event.key_id,
        mac=event.mac,
    )


def audit_filter_from_proto(request: pb.ListAuditEventsRequest) -> AuditFilter:
    """Returns what a caller wants to see. The request has passed the rules of its proto."""
    return AuditFilter(
        start_time=microseconds(request.start_time) if request.HasField("start_time") else None,
        end_time=microseconds(request.end_time) if request.HasField("end_time") else None,
        actor=request.actor if request.HasField("actor") else None,
        resources=frozenset(resource for resource, number in RESOURCES.items() if number in request.resources),
        resource_id=request.resource_id if request.HasField("resource_id") else None,
        verbs=frozenset(verb for verb, number in VERBS.items() if number in request.verbs),
    )
