"""What clients agree on with the server: keepalive, and which calls they may repeat by themselves.

`python -m metamorphd.edge.grpc.service_config` prints it as JSON; each client package carries it as `channel.json`.
`serviceConfig` is gRPC's own (https://github.com/grpc/grpc/blob/master/doc/service_config.md), which has no place for
keepalive.
"""

import json
import sys
from typing import Any

from metamorph.api.v1.options_pb2 import Permission

from metamorphd.edge.grpc.port import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS
from metamorphd.edge.methods import SERVICES, Method, methods_of

READS = {Permission.PERMISSION_READ, Permission.PERMISSION_AUTHENTICATED}
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def client_configuration() -> dict[str, Any]:
    """Times in milliseconds. Only what reads, and answers once, may be repeated."""
    names = [_name(method) for method in methods_of(SERVICES).values() if _repeatable(method)]
    return {
        "keepaliveTimeMs": KEEPALIVE_SECONDS * 1000,
        "keepaliveTimeoutMs": KEEPALIVE_TIMEOUT_SECONDS * 1000,
        "serviceConfig": {
            "methodConfig": [{"name": names, "retryPolicy": RETRY}],
        },
    }


def _repeatable(method: Method) -> bool:
    # A stream that broke is resumed where it was, not repeated.
    return set(method.requires) <= READS and not method.path.rpartition("/")[2].startswith("Stream")


def _name(method: Method) -> dict[str, str]:
    service, name = method.path[1:].split("/")
    return {"service": service, "method": name}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(client_configuration(), indent=2) + "\n")
