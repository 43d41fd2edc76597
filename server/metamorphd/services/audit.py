"""VaultService: the audit."""

from metamorph_client.vault.v1 import vault_service_pb2 as pb

from metamorphd.models.caller import Scope
from metamorphd.services.convert.audit import audit_event_to_proto, audit_filter_from_proto
from metamorphd.services.paging import clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.audit import list_audit_events
from metamorphd.store.database import Database


class VaultAudit:
    """The methods of VaultService for the audit."""

    _database: Database

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, scope: Scope) -> pb.ListAuditEventsResponse:
        after = decode_page_token(request, scope.vault_id, request.page_token, (int,))
        page = await self._database.read(
            list_audit_events,
            scope,
            wanted=audit_filter_from_proto(request),
            before=int(after[0]) if after else None,
            # Not limited by size: an event has at most 3 KB, so 1000 of them stay below 3 MiB.
            page_size=clamp_page_size(request.page_size),
        )
        return pb.ListAuditEventsResponse(
            audit_events=await convert_items(audit_event_to_proto, page.items),
            next_page_token=encode_page_token(request, scope.vault_id, page.next_after),
        )
