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
    archived: bool
    creator: str
    message_count: int
    current_leaf_message_id: str | None
    running_turn_ids: tuple[str, ...]
    create_time: int
    update_time: int
    last_message_time: int | None
    revision: int
