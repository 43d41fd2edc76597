"""What clients agree on with the server: keepalive, and which calls they may repeat by themselves.

`python -m metamorphd.edge.grpc.service_config` prints it as JSON; each client package carries it as `channel.json`.
`serviceConfig` is gRPC's own (https://github.com/grpc/grpc/blob/master/doc/service_config.md), which has no place for
keepalive.
"""

import json
import sys
from typing import Any

from google.protobuf.descriptor_pb2 import MethodOptions

from metamorphd.edge.grpc.port import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS
from metamorphd.edge.methods import SERVICES, Method, methods_of

REPEATABLE = {MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT}
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def client_configuration() -> dict[str, Any]:
    """Times in milliseconds. A method may be repeated if its `idempotency_level` says so.

    That holds for streams too: gRPC repeats a call only before the first byte of its answer.
    """
    names = [_name(method) for method in methods_of(SERVICES).values() if method.idempotency in REPEATABLE]
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
