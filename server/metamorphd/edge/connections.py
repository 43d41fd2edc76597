"""How many connections there may be, so that none can use up the descriptors that all others need."""

import resource
from dataclasses import dataclass

# At most: a connection of gRPC takes up to 0.1 MB of memory, and HTTP only serves health checks and metrics.
MOST_GRPC = 4096
MOST_HTTP = 512


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections each protocol may have open. `http_per_network` is for one network's share of `http`."""

    grpc: int
    http: int

    @property
    def http_per_network(self) -> int:
        # Behind a proxy, all callers have its address.
        return max(1, self.http // 2)


def raise_descriptor_limit() -> None:
    """Raises the process's soft limit on open descriptors to the hard one, which is usually far higher."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limits() -> ConnectionLimits:
    """Returns limits that leave a quarter of the descriptors for everything else: files, the model, Redis."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return ConnectionLimits(MOST_GRPC, MOST_HTTP)
    return ConnectionLimits(min(MOST_GRPC, descriptors // 2), min(MOST_HTTP, descriptors // 4))
