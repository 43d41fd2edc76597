"""Who makes a call, and tokens that were revoked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as the token or dev mode has it.

    `token_id` is the token's `jti`, `issue_time` its `iat`; None where it has none. `expire_time` is None where nothing
    expires.
    """

    vault_id: str
    user_id: str
    email: str
    permissions: frozenset[str]
    operator: bool
    auth_method: str
    token_id: str | None
    issue_time: int | None
    expire_time: int | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens that count no more: the one with `token_id`, or those of `user_id` issued before `issued_before`."""

    revocation_id: str
    vault_id: str
    token_id: str | None
    user_id: str | None
    issued_before: int | None
    note: str
    creator: str
    create_time: int
