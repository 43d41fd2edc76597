"""Records what operators read of vaults."""

import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from google.protobuf.descriptor_pb2 import MethodOptions

from metamorphd.audit.recording import Recorder
from metamorphd.edge.call import Call
from metamorphd.edge.guards import Authenticate, Authorize, LimitRate, LimitSize, Validate
from metamorphd.edge.methods import OPERATOR, SERVICES, Method, methods_of
from metamorphd.edge.repeated import Repeated
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangeVerb

# Methods that read, and whose calls are not recorded here.
UNRECORDED = {
    "GetServerInfo": "about the server only, and asked for by every check",
    "GetBackup": "about files only",
    "ListBackups": "about files only",
    "DownloadBackup": "recorded by itself, each time",
    "GetKeyRotation": "about keys only",
    "ListServerAuditEvents": "about what is recorded only",
    "VerifyAuditLog": "returns numbers of entries and their MACs",
}


class OperatorReads(Repeated):
    """Records reads in the server's own log. The rate is that of an operator and a method."""

    def __init__(self, *, recorder: Recorder, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(recorder=recorder, verb=ChangeVerb.READ, now=now)

    async def record(self, scope: Scope, *, method: str, vault_id: str) -> None:
        """Records that an operator reads what there is of a vault, or of all if none is named."""
        key = (scope.actor.vault_id, scope.actor.user_id, method)
        details = {"vault_id": vault_id} if vault_id else {}
        await self.take(key, scope.of_server(), method, details, common=method)


class RecordReads:
    """After validation: records an operator's read of vaults before it is answered. One that cannot be is not answered.

    In the server's own log: in a vault's, whoever looks at its last activity would be that.
    """

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize, LimitRate, LimitSize, Validate})
    reads_requests: ClassVar[bool] = True

    def __init__(self, *, reads: OperatorReads) -> None:
        self._reads = reads
        self._recorded = {path for path, method in methods_of(SERVICES).items() if is_recorded(method)}

    def __call__(self, call: Call) -> Awaitable[None] | None:
        if call.method.path not in self._recorded:
            return None
        vault_id = getattr(call.request, "vault_id", "")
        return self._reads.record(call.scope, method=call.method.path[1:], vault_id=vault_id)


def is_recorded(method: Method) -> bool:
    """Returns whether calls of a method are recorded as reads."""
    reads = method.idempotency == MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
    return reads and OPERATOR in method.claims and method.name not in UNRECORDED
