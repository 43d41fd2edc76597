"""HTTP connections with a time limit, and limits on how many there are."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from metamorphd.edge.call import network_of
from metamorphd.edge.connections import ConnectionLimits

# From the connection, or the last response, to the end of the next response: its headers are sent, and it is read.
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 5
LARGEST_HEADERS = 16 * 1024


class Connections:
    """The open connections. When there are too many, the one that has waited longest for a request makes room.

    A caller that opens connections without sending requests only closes its own: first, its network has a limit.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        # In the order in which they began to wait.
        self._networks: dict[HttpConnection, str] = {}

    def open(self, connection: "HttpConnection", address: str) -> None:
        """Counts a connection. Closes another one, or it if all are being answered, if there are too many."""
        network = network_of(address)
        self._networks[connection] = network
        of_network = [each for each, other in self._networks.items() if other == network]
        if len(of_network) > self._limits.http_per_network:
            self._make_room(of_network)
        elif len(self._networks) > self._limits.http:
            self._make_room(list(self._networks))

    def waits(self, connection: "HttpConnection") -> None:
        """Puts a connection at the end of those that wait for a request."""
        if connection in self._networks:
            self._networks[connection] = self._networks.pop(connection)

    def close(self, connection: "HttpConnection") -> None:
        """Forgets a connection."""
        self._networks.pop(connection, None)

    def _make_room(self, candidates: list["HttpConnection"]) -> None:
        victim = next((each for each in candidates if not each.answering), candidates[-1])
        self.close(victim)
        victim.transport.abort()


class HttpConnection(H11Protocol):
    """A connection. It is closed unless each request is complete and answered within `REQUEST_SECONDS`.

    uvicorn has a limit for idle connections only, and any byte ends it.
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], *, connections: Connections
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._connections = connections
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Returns whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._expect_request()
        self._connections.open(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._connections.close(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._connections.waits(self)
        # A response that has not been read yet, or a body that has not arrived, still belongs to the last request.
        if not self.transport.get_write_buffer_size():
            self._expect_request()
        super().on_response_complete()

    def _expect_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
