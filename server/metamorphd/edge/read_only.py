"""The guard of a server that only reads."""

from typing import ClassVar

from google.protobuf.descriptor_pb2 import MethodOptions

from metamorphd.edge.call import Call
from metamorphd.edge.guards import Authenticate, Authorize, LimitRate
from metamorphd.errors import ReadOnly


class RefuseWrites:
    """After the rate limit: refuses each method whose proto does not say that it has no side effects.

    `primary` is the address of the server that writes.
    """

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize, LimitRate})
    reads_requests: ClassVar[bool] = False

    def __init__(self, *, primary: str) -> None:
        self._primary = primary

    def __call__(self, call: Call) -> None:
        if call.method.idempotency != MethodOptions.NO_SIDE_EFFECTS:
            raise ReadOnly(primary=self._primary)
