"""Free ports for servers to listen on."""

import contextlib
import random
import socket
from pathlib import Path

LOWEST_PORT = 10_000


def free_port() -> int:
    """Returns an unused port outside the range that the system assigns to sockets without one (ip(7))."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(LOWEST_PORT, given)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
