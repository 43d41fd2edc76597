"""The settings of replication."""

from pydantic import BaseModel, Field

from metamorphd.settings.values import ExactBoolean, HostAndPort, Seconds


class ReplicationSettings(BaseModel):
    """The replica of the database, and the server that only reads it."""

    replica_url: str | None = Field(
        default=None,
        description=(
            "Litestream's replica of the database, s3://bucket/prefix or file:///directory: `deploy/replicate` writes "
            "it, and a read-only server follows it. Default: none."
        ),
    )
    read_only: ExactBoolean = Field(
        default=False,
        description="`true` serves copies of REPLICA_URL, and refuses to write. Requires PRIMARY_ADDRESS too.",
    )
    primary_address: HostAndPort = Field(
        default=None, description="host:port of the server that writes, which a read-only one names when it refuses."
    )
    replica_interval_seconds: Seconds = Field(
        default=30, ge=1, description="Seconds from one copy of the replica to the next; more if it takes long to make."
    )
