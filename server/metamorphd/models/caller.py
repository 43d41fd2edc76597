"""Who makes a call, and what an operation runs for."""

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


# The server itself, where no caller is behind what is done.
SERVER = Caller(
    vault_id="",
    user_id="",
    email="",
    permissions=frozenset(),
    operator=False,
    auth_method="server",
    token_id=None,
    issue_time=None,
    expire_time=None,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What an operation runs for: a vault, who acts in it, and the id of the call they act by.

    `vault_id` is empty for operations across vaults, `call_id` where no call is behind the operation.
    """

    vault_id: str
    actor: Caller
    call_id: str

    def of_vault(self, vault_id: str) -> "Scope":
        """Returns the scope of the same actor and call in another vault: for operators."""
        return Scope(vault_id, self.actor, self.call_id)


def server_scope(vault_id: str = "") -> Scope:
    """Returns the scope of what the server does by itself, in one vault or across vaults."""
    return Scope(vault_id, SERVER, "")
