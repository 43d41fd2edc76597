"""The identity of a caller, and the scope of an operation."""

from dataclasses import dataclass, field, replace

from metamorphd.models.span import NOT_RECORDED, Span


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity that a call is made with, from its token or from dev mode.

    `token_id` is the token's `jti` and `issue_time` its `iat`, or None if it has none. `expire_time` is None if the
    identity does not expire. `key` is the digest of the public key that verified the token, if it is one of a key set.
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
    key: str | None = None


# Stands for a vault where entries of the server's own log are stored. No token can name it.
SERVER_LOG = "-server"

# The server itself, for operations that no caller requested.
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
    """The scope of an operation: a vault, the actor, the id of the call, and the span that it is a part of.

    `vault_id` is empty for operations across vaults, `call_id` for operations that no call requested. `operates` if the
    actor acts as the operator, not as a caller of the vault.
    """

    vault_id: str
    actor: Caller
    call_id: str
    span: Span = field(default=NOT_RECORDED, compare=False, repr=False)
    operates: bool = False

    @property
    def of_caller(self) -> bool:
        """Returns whether a caller of the vault requested the operation, rather than the server or its operator."""
        return not self.operates and self.actor.vault_id == self.vault_id

    def of_vault(self, vault_id: str) -> "Scope":
        """Returns the scope of the same actor and call in any vault, as its operator. For operators only."""
        return replace(self, vault_id=vault_id, operates=True)

    def of_server(self) -> "Scope":
        """Returns the scope of the same actor and call for the server's own log. For operators only."""
        return self.of_vault(SERVER_LOG)

    def within(self, span: Span) -> "Scope":
        """Returns the scope of a part of this operation."""
        return replace(self, span=span)


def server_scope(vault_id: str = "") -> Scope:
    """Returns the scope of the server's own operations, in one vault or across vaults."""
    return Scope(vault_id, SERVER, "")
