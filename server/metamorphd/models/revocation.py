"""Revocations of tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation of the token `token_id`, or of the tokens of `user_id` that were issued before `issued_before`."""

    revocation_id: str
    vault_id: str
    token_id: str | None
    user_id: str | None
    issued_before: int | None
    note: str
    creator: str
    create_time: int
