"""Channel configuration for clients: keepalive, and the calls that they may retry automatically.

`python -m metamorphd.edge.grpc.service_config` prints it as JSON; each client package contains it as `channel.json`.
`serviceConfig` is gRPC's own (https://github.com/grpc/grpc/blob/master/doc/service_config.md), which has no place for
keepalive.
"""

import json
import sys
from typing import Any

from google.protobuf.descriptor_pb2 import MethodOptions

from metamorphd.edge.grpc.port import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS
from metamorphd.edge.methods import SERVICES, Method, methods_of

RETRYABLE = {MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT}
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def client_configuration() -> dict[str, Any]:
    """Returns the configuration. Times are in milliseconds. Methods are retried if their `idempotency_level` allows.

    Streams are retried too, because gRPC retries a call only before the first byte of its response.
    """
    names = [_name(method) for method in methods_of(SERVICES).values() if method.idempotency in RETRYABLE]
    return {
        "keepaliveTimeMs": KEEPALIVE_SECONDS * 1000,
        "keepaliveTimeoutMs": KEEPALIVE_TIMEOUT_SECONDS * 1000,
        "serviceConfig": {
            "methodConfig": [{"name": names, "retryPolicy": RETRY}],
        },
    }


def _name(method: Method) -> dict[str, str]:
    service, name = method.path[1:].split("/")
    return {"service": service, "method": name}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(client_configuration(), indent=2) + "\n")
