"""A conversation."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    session_id: str
    title: str
    model: str
    system_prompt: str
    metadata: Mapping[str, str]
    labels: Mapping[str, str]
    archived: bool
    creator: str
    message_count: int
    current_leaf_message_id: str | None
    running_turn_ids: tuple[str, ...]
    create_time: int
    update_time: int
    last_message_time: int | None
    revision: int
    recall_tokens: int = 0
    memory_tool: bool = False


@dataclass(frozen=True, slots=True)
class SessionChanges:
    """New values of the fields that a user can set. None keeps the value."""

    title: str | None = None
    model: str | None = None
    system_prompt: str | None = None
    metadata: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    archived: bool | None = None
    recall_tokens: int | None = None
    memory_tool: bool | None = None
