"""The settings of replies."""

from pathlib import Path

from pydantic import BaseModel, Field

from metamorphd.settings.values import Seconds


class ReplySettings(BaseModel):
    """Which models reply, and how they are asked."""

    anthropic_base_url: str | None = Field(
        default=None, description="Base URL of the Messages API, if it is not Anthropic's."
    )
    anthropic_max_retries: int = Field(
        default=2, ge=0, le=10, description="How often to retry a call to the model that fails before its first event."
    )
    anthropic_stall_seconds: Seconds = Field(
        default=60, gt=0, description="Seconds of silence from the model after which the turn fails."
    )
    compaction_trigger_tokens: int = Field(
        default=150_000,
        ge=0,
        description="Input tokens above which earlier messages are summarized for the model. 0 turns this off.",
    )
    default_model: str = Field(
        default="claude-sonnet-5-5",
        description="Model of turns for which neither the request, the session nor the vault names one.",
    )
    model_catalog: Path | None = Field(
        default=None,
        description="JSON file of accepted models and their prices, which replaces the built-in catalog.",
    )
    session_title_model: str = Field(
        default="",
        description="Model that titles untitled sessions after a reply, for example claude-haiku-5-5. Empty: none.",
    )
    max_output_tokens: int = Field(
        default=32_000, ge=1, le=131_072, description="Maximum length of a reply, in tokens."
    )
