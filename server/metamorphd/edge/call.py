"""A call on its way to its servicer, and the interface to the protocol that carries it."""

import ipaddress
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import NoReturn, Protocol
from urllib.parse import unquote

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from metamorphd.edge.methods import Method
from metamorphd.in_flight import Hold
from metamorphd.models.caller import Caller, Scope
from metamorphd.models.span import NOT_RECORDED, Span

CALL_ID_KEY = "x-request-id"
# https://www.w3.org/TR/trace-context/
TRACE_KEYS = frozenset({"traceparent", "tracestate"})
_CALL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Makes call ids unique without reading the system's randomness for every call.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count(1)

Metadata = Sequence[tuple[str, str | bytes]]


class Exchange(Protocol):
    """One call, as its protocol carries it. Requests and responses are serialized messages."""

    @property
    def end(self) -> object:
        """Returned by `read` after the last request."""

    def metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Returns the metadata that the caller sent. Keys are in lower case, and may occur more than once."""

    def peer(self) -> str:
        """Returns the caller's address as gRPC writes it: `ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`."""

    def read(self) -> Awaitable[object]:
        """Returns the next request as bytes, or `end`. Raises CancelledError if the caller is gone."""

    def write(self, response: bytes) -> Awaitable[None]:
        """Sends a response of a stream. Returns once flow control has let it through."""

    def send_initial_metadata(self, metadata: Metadata) -> Awaitable[None]:
        """Sends metadata ahead of the first response. Raises CancelledError if the caller is gone."""

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Sets the metadata that is sent with the status."""

    async def abort(self, status: Status) -> NoReturn:
        """Ends the call with a status. Raises the exception that ends a call in this protocol."""


class Call:
    """One call. The guards set the caller, then the request. `call_id` is the one that the caller sent, or a new one.

    If requests are streamed, `raw` and `request` are the latest one. `carried` are the attachments of the request.
    `hold` is the memory that large requests take up. `code` and `reason` are the outcome, `why` is for the log:
    what is wrong with a refused token. `began` is the start time by the performance counter. `traced` are the headers
    that name the span of the caller, `span` is the call's own.
    """

    __slots__ = (
        "authorization",
        "began",
        "call_id",
        "call_id_was_sent",
        "caller",
        "carried",
        "code",
        "exchange",
        "hold",
        "method",
        "raw",
        "reason",
        "request",
        "span",
        "traced",
        "vault_header",
        "why",
    )

    def __init__(self, method: Method, exchange: Exchange) -> None:
        self.began = time.perf_counter()
        self.method = method
        self.exchange = exchange
        self.raw = b""
        self.hold: Hold | None = None
        self.authorization: list[str | bytes] = []
        self.vault_header: list[str | bytes] = []
        self.caller: Caller | None = None
        self.request: Message | None = None
        self.carried: Sequence[memoryview] = ()
        self.code = "OK"
        self.reason: str | None = None
        self.why = ""
        self.traced: list[tuple[str, str | bytes]] = []
        self.span: Span = NOT_RECORDED
        sent: list[str | bytes] = []
        for key, value in exchange.metadata():
            if key == "authorization":
                self.authorization.append(value)
            elif key == "x-vault-id":
                self.vault_header.append(value)
            elif key == CALL_ID_KEY:
                sent.append(value)
            elif key in TRACE_KEYS:
                self.traced.append((key, value))
        self.call_id_was_sent = len(sent) == 1 and isinstance(sent[0], str) and bool(_CALL_ID.fullmatch(sent[0]))
        self.call_id = str(sent[0]) if self.call_id_was_sent else f"{_PROCESS}-{next(_NUMBERS):x}"

    def take_raw(self) -> bytes:
        """Returns the serialized request, and drops the call's reference to it."""
        raw, self.raw = self.raw, b""
        return raw

    def take_request(self) -> Message | None:
        """Returns the parsed request, and drops the call's reference: a call may last longer than it needs it."""
        request, self.request = self.request, None
        return request

    def take_carried(self) -> Sequence[memoryview]:
        """Returns the attachments of the request, and drops the call's reference."""
        carried, self.carried = self.carried, ()
        return carried

    def release(self) -> None:
        """Gives back the memory that the requests took up."""
        if self.hold is not None:
            self.hold.release()

    @property
    def scope(self) -> Scope:
        """Returns the scope of the call's operations: the caller's vault. Available after Authenticate."""
        caller = self.caller
        if caller is None:
            raise RuntimeError("a call has no scope before Authenticate")
        return Scope(caller.vault_id, caller, self.call_id, self.span)

    @property
    def network(self) -> str:
        """Returns the caller's network, as `network_of` does."""
        return network_of(unquote(self.exchange.peer()).partition(":")[2].rpartition(":")[0].strip("[]"))


def network_of(address: str) -> str:
    """Returns the network of an address: an IPv4 address, or an IPv6 /64, since one host can have a whole /64."""
    # Sockets of other kinds have no IP address.
    address = address.partition("%")[0]
    try:
        host = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(host, ipaddress.IPv6Address):
        return str(host.ipv4_mapped or ipaddress.ip_network((host, 64), strict=False))
    return address
