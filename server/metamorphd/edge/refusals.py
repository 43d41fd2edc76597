"""Records refusals of permission."""

import time
from collections.abc import Callable

from metamorphd.audit.recording import Recorder
from metamorphd.edge.repeated import Repeated
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangeVerb


class Refusals(Repeated):
    """Records refusals in the log of the caller's vault. The rate is that of a user."""

    def __init__(self, *, recorder: Recorder, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(recorder=recorder, verb=ChangeVerb.REFUSED, now=now)

    async def record(self, scope: Scope, *, method: str, permission: str) -> None:
        """Records that a call was refused. Raises as `Recorder.record`."""
        key = (scope.vault_id, scope.actor.user_id)
        await self.take(key, scope, method, {"permission": permission}, common="")
