"""The settings of limits."""

from pydantic import BaseModel, Field

from metamorphd.settings.values import Days, Hours, RateLimitStorage, Seconds


class LimitSettings(BaseModel):
    """How large, how many, how often and how long."""

    max_content_bytes: int = Field(
        default=1_048_576, ge=1, le=1_048_576, description="Maximum text of one message, in bytes."
    )
    max_attachment_bytes: int = Field(
        default=20_971_520, ge=1, le=33_554_432, description="Maximum size of an image or document, in bytes."
    )
    max_bytes_in_flight: int = Field(
        default=67_108_864,
        ge=33_554_432,
        description=(
            "Memory that large requests may take up together until they are stored, in bytes, and the texts of "
            "prompts until they are sent, half as much again."
        ),
    )
    max_vault_bytes_in_flight: int = Field(
        default=41_943_040, ge=33_554_432, description="The same for one vault. At most MAX_BYTES_IN_FLIGHT has effect."
    )
    rate_limit_requests: int = Field(
        default=100,
        ge=0,
        description="Calls per user and window. 0 means no limit, which is the default of `metamorph dev`.",
    )
    rate_limit_window_seconds: Seconds = Field(default=900, gt=0, description="Length of the window, in seconds.")
    rate_limit_storage: RateLimitStorage = Field(
        default=None, description="`memory` (the default), or redis://… to share the limits between replicas."
    )
    auth_failure_requests: int = Field(
        default=100, ge=0, description="Refused tokens per client network and window. 0 means no limit."
    )
    max_running_turns: int = Field(default=100, ge=1, description="Turns of one vault that may run at the same time.")
    turn_timeout_seconds: Seconds = Field(default=600, gt=0, description="Time limit of a turn, in seconds.")
    event_retention_hours: Hours = Field(
        default=24, ge=24, description="Hours after its end during which a turn can be replayed. Messages stay."
    )
    request_retention_days: Days = Field(
        default=7,
        ge=7,
        description="Days during which a request_id is known. Those of sends are, as long as their turn.",
    )
    change_retention_days: Days = Field(
        default=7,
        gt=0,
        description="Days during which changes stay in the log of a vault, so that WatchVault can resume after them.",
    )
    max_vault_memories: int = Field(
        default=10_000, ge=1, le=100_000, description="Memories of one vault, superseded ones included."
    )
    memory_half_life_days: Days = Field(
        default=90,
        gt=0,
        description="Days after which a memory that was not updated counts half as recent in SearchMemories.",
    )
    audit_retention_days: Days = Field(
        default=365,
        gt=0,
        description=(
            "Days during which entries stay in the log of a vault for its audit, at least CHANGE_RETENTION_DAYS."
        ),
    )
    shutdown_grace_seconds: Seconds = Field(
        default=25, ge=0, description="Seconds that running turns may take to end after SIGTERM."
    )
