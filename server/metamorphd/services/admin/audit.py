"""AdminService: the audit."""

from collections.abc import AsyncIterator
from functools import partial

from metamorph_client.admin.v1 import admin_service_pb2 as pb

from metamorphd.audit.verification import Position, Verification
from metamorphd.errors import PageTokenInvalid
from metamorphd.models.audit import AuditFilter
from metamorphd.models.caller import Scope
from metamorphd.services.convert.audit import audit_event_to_proto
from metamorphd.services.convert.audit_report import head_from_proto, report_to_proto
from metamorphd.services.convert.time import microseconds
from metamorphd.services.paging import clamp_page_size, convert_items, decode_page_token, encode_page_token
from metamorphd.store.audit import list_audit_events
from metamorphd.store.database import Database


class AdminAudit:
    """The audit methods of AdminService."""

    _database: Database
    _verification: Verification

    async def ListServerAuditEvents(
        self, request: pb.ListServerAuditEventsRequest, scope: Scope
    ) -> pb.ListServerAuditEventsResponse:
        after = decode_page_token(request, "", request.page_token, (int,))
        page = await self._database.read(
            list_audit_events,
            scope.of_server(),
            wanted=AuditFilter(
                start_time=microseconds(request.start_time) if request.HasField("start_time") else None,
                end_time=microseconds(request.end_time) if request.HasField("end_time") else None,
            ),
            before=int(after[0]) if after else None,
            # Not limited by size, as in ListAuditEvents.
            page_size=clamp_page_size(request.page_size),
        )
        return pb.ListServerAuditEventsResponse(
            audit_events=await convert_items(partial(audit_event_to_proto, names_operators=True), page.items),
            next_page_token=encode_page_token(request, "", page.next_after),
        )

    async def VerifyAuditLog(
        self, request: pb.VerifyAuditLogRequest, scope: Scope
    ) -> AsyncIterator[pb.VerifyAuditLogResponse]:
        if request.anchors:
            compared = await self._verification.compare(scope, list(map(head_from_proto, request.anchors)))
            yield report_to_proto(compared, resume_token="")
            return
        query = pb.VerifyAuditLogRequest()
        after = decode_page_token(query, "", request.resume_token, (str, int, int, str, int, int))
        async for report, left in self._verification.verify(scope, _position(after) if after else Position()):
            values = None if left is None else (*left[:3], left.mac.hex(), *left[4:])
            yield report_to_proto(report, resume_token=encode_page_token(query, "", values))


def _position(values: tuple[int | str, ...]) -> Position:
    vault_id, revision, last, mac, age, broken = values
    try:
        return Position(str(vault_id), int(revision), int(last), bytes.fromhex(str(mac)), int(age), int(broken))
    except ValueError:
        raise PageTokenInvalid from None
