"""The Railway project: one service with its volume and settings.

`railway config plan` shows the changes that `railway config apply` would make. Both run `python3`, which must find
`railway_sdk`, so put .venv/bin first on the PATH.
"""

# The SDK has no type annotations.
# mypy: disable-error-code="import-untyped"

from railway_sdk import Project, preserve, project, service, volume

DATA = "/data"
# Set once with `railway variable set NAME --stdin`. Their values are not in this file, and plans do not change them.
SECRETS = ("ANTHROPIC_API_KEY", "EMBLEM_JWT_SECRET")


def main() -> Project:
    """The service has no source: `railway up` uploads this directory, or the dashboard connects a repository."""
    # No size: a volume has the size that the plan allows, and costs what is used.
    data = volume("metamorph-data")
    metamorph = service(
        "metamorph",
        build={"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"},
        healthcheck="/health",
        healthcheckTimeout=120,
        deploy={
            "restartPolicyType": "ON_FAILURE",
            "restartPolicyMaxRetries": 10,
            # One server per SQLite file: the old one must have stopped before the new one opens the file.
            "overlapSeconds": 0,
            # SHUTDOWN_GRACE_SECONDS (25), plus time for the last commits and sends, and to replicate them. Railway's
            # default is 0.
            "drainingSeconds": 50,
        },
        volumeMounts={DATA: data},
        # Services of the project call metamorph.railway.internal:50051, which needs no configuration.
        # No `domains`: the public HTTP edge speaks HTTP/1.1 to services, but gRPC needs HTTP/2.
        # No `tcp`: that proxy forwards bytes unchanged, so it needs GRPC_TLS_CERT and GRPC_TLS_KEY first.
        env={
            # Fixed, so that Railway's health check and readers of /metrics use the same port.
            "PORT": "3001",
            "NODE_ENV": "production",
            "DATABASE_PATH": f"{DATA}/metamorph.db",
            "EMBLEM_DEV_MODE": "false",
            **{name: preserve() for name in SECRETS},
        },
    )
    return project("metamorph", resources=[metamorph, data])
