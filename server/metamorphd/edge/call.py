"""A call on its way to its servicer."""

import ipaddress
import itertools
import re
import secrets
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from google.protobuf.message import Message

from metamorphd.edge.methods import Method
from metamorphd.models.caller import Caller

CALL_ID_KEY = "x-request-id"
_CALL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Unique without asking the system for randomness on every call.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count(1)


class Call:
    """One call. The guards fill in the caller, then the request. `call_id` is the caller's own or a new one.

    Of a call that streams requests, `raw` and `request` are the newest one.
    """

    __slots__ = (
        "_peer",
        "authorization",
        "call_id",
        "call_id_was_sent",
        "caller",
        "method",
        "raw",
        "request",
        "vault_header",
    )

    def __init__(
        self, method: Method, metadata: Iterable[tuple[str, str | bytes]], raw: bytes, *, peer: Callable[[], str]
    ) -> None:
        self.method = method
        self.raw = raw
        self._peer = peer
        self.authorization: list[str | bytes] = []
        self.vault_header: list[str | bytes] = []
        self.caller: Caller | None = None
        self.request: Message | None = None
        sent: list[str | bytes] = []
        for key, value in metadata:
            if key == "authorization":
                self.authorization.append(value)
            elif key == "x-vault-id":
                self.vault_header.append(value)
            elif key == CALL_ID_KEY:
                sent.append(value)
        self.call_id_was_sent = len(sent) == 1 and isinstance(sent[0], str) and bool(_CALL_ID.fullmatch(sent[0]))
        self.call_id = str(sent[0]) if self.call_id_was_sent else f"{_PROCESS}-{next(_NUMBERS):x}"

    @property
    def network(self) -> str:
        """Where the call comes from: an IPv4 address, or the /64 of an IPv6 one, which is as much as one host has."""
        # `ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`; a socket of another kind has no address.
        address = unquote(self._peer()).partition(":")[2].rpartition(":")[0].strip("[]").partition("%")[0]
        try:
            host = ipaddress.ip_address(address)
        except ValueError:
            return address
        if isinstance(host, ipaddress.IPv6Address):
            return str(host.ipv4_mapped or ipaddress.ip_network((host, 64), strict=False))
        return address
