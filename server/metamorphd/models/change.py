"""Changes in the log of a vault."""

from dataclasses import dataclass
from enum import StrEnum


class ChangedResource(StrEnum):
    """The kinds of what changes. The API has the same names."""

    VAULT = "vault"
    VAULT_LIMITS = "vault_limits"
    SESSION = "session"
    MESSAGE = "message"
    TURN = "turn"
    ATTACHMENT = "attachment"


class ChangeVerb(StrEnum):
    """What happens to a resource. The API has the same names. A turn is started, and ends with its status."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    STARTED = "started"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Change:
    """A change, never with content. Revisions of a vault count from 1 without gaps, in the order of commits.

    `actor` is a user of the vault, or empty for the server and its operator. `call_id` is empty if no call requested
    it. `change_time` is in microseconds since the epoch, and may be a little out of order.
    """

    revision: int
    change_time: int
    actor: str
    call_id: str
    resource: ChangedResource
    resource_id: str
    verb: ChangeVerb
