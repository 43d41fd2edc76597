"""The Railway project: one service, its volume, its settings.

`railway config plan` shows what this would change, `railway config apply` changes it. Both run `python3`, which must
find `railway_sdk`: put .venv/bin first on the PATH.
"""

# The SDK says nothing about its types.
# mypy: disable-error-code="import-untyped"

from railway_sdk import Project, preserve, project, service, volume

DATA = "/data"
# Set once with `railway variable set NAME --stdin`. A plan leaves their values alone; they are nowhere in this file.
SECRETS = ("ANTHROPIC_API_KEY", "EMBLEM_JWT_SECRET")


def main() -> Project:
    """Without a source: `railway up` sends this directory, or the dashboard connects a repository."""
    # No size: a volume has the plan's, and costs what is used of it.
    data = volume("metamorph-data")
    metamorph = service(
        "metamorph",
        build={"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"},
        healthcheck="/health",
        healthcheckTimeout=120,
        deploy={
            "restartPolicyType": "ON_FAILURE",
            "restartPolicyMaxRetries": 10,
            # SQLite has one writer: the old server must be gone before the new one opens the file.
            "overlapSeconds": 0,
            # Longer than SHUTDOWN_GRACE_SECONDS (25) and the last commits and sends after it. Railway's default is 0.
            "drainingSeconds": 40,
        },
        volumeMounts={DATA: data},
        # Services of the project call metamorph.railway.internal:50051, for which nothing need be said here.
        # No `domains`: the public HTTP edge speaks HTTP/1.1 to a service, gRPC needs HTTP/2; and /metrics asks for no
        # token. No `tcp`: that proxy passes bytes on as they are, and this server has no TLS of its own yet.
        env={
            # Fixed, so that Railway's health check and whoever reads /metrics ask the same port.
            "PORT": "3001",
            "NODE_ENV": "production",
            "DATABASE_PATH": f"{DATA}/metamorph.db",
            "EMBLEM_DEV_MODE": "false",
            **{name: preserve() for name in SECRETS},
        },
    )
    return project("metamorph", resources=[metamorph, data])
