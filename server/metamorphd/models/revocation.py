"""Revoked tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Revocation:
    """Revoked tokens: the one with `token_id`, or those of `user_id` issued before `issued_before`."""

    revocation_id: str
    vault_id: str
    token_id: str | None
    user_id: str | None
    issued_before: int | None
    note: str
    creator: str
    create_time: int
