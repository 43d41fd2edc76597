"""Changes in the log of a vault."""

from bisect import bisect_right
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
    SECRET = "secret"  # noqa: S105, a kind
    OPERATION = "operation"
    MEMORY = "memory"
    CALL = "call"
    REVOCATION = "revocation"
    DATA_KEYS = "data_keys"
    BACKUP = "backup"


# Kinds of what no caller of the vault can read. Their entries have revisions, and only the audit shows them.
AUDITED = frozenset(
    {ChangedResource.CALL, ChangedResource.REVOCATION, ChangedResource.DATA_KEYS, ChangedResource.BACKUP}
)


class ChangeVerb(StrEnum):
    """An event in the life of a resource. The API has the same names. A turn is started, and ends with its status."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    STARTED = "started"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    READ = "read"
    DESTROYED = "destroyed"
    EXPORTED = "exported"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    REFUSED = "refused"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class Change:
    """A change, never with content. Revisions of a vault count from 1 in the order of commits.

    None is left out but those of entries that only the audit shows.

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


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of a vault after a revision, up to `last_revision`, in order. `newest_revision` is the vault's.

    `mark` is that of the last revision: no other history has it there. It is empty if there is no such entry.
    """

    after_revision: int
    changes: tuple[Change, ...]
    last_revision: int
    newest_revision: int
    mark: str

    def after(self, revision: int) -> "Changes | None":
        """Returns those after a later revision, or None if they are not all here."""
        if not self.after_revision <= revision <= self.last_revision:
            return None
        first = bisect_right(self.changes, revision, key=lambda change: change.revision)
        return Changes(revision, self.changes[first:], self.last_revision, self.newest_revision, self.mark)


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Selects changes by the kind of their resource and by their verb. Empty sets select all."""

    resources: frozenset[ChangedResource] = frozenset()
    verbs: frozenset[ChangeVerb] = frozenset()

    def passes(self, change: Change) -> bool:
        """Returns whether a change is selected."""
        return (not self.resources or change.resource in self.resources) and (
            not self.verbs or change.verb in self.verbs
        )


@dataclass(frozen=True, slots=True)
class OldestChange:
    """The oldest change that watchers of a vault are shown, and whether it is due to be compacted.

    `deletable` says whether an entry that they are not shown any more is due to be deleted.
    """

    vault_id: str
    change_time: int
    due: bool
    deletable: bool
