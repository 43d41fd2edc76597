"""The log of a vault, as an audit sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from metamorphd.models.change import ChangedResource, ChangeVerb

# In a report.
REPORT_ENTRIES, REPORT_LOGS, REPORT_FAULTS = 5_000, 500, 100


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry of a vault's log. `actor` is a user of the vault, the server's operator if `operator`, or empty.

    `details` depend on what it is about. `mac` authenticates it and all entries before, and is empty if the server had
    no key for that; `key_id` names the key.
    """

    revision: int
    event_time: int
    actor: str
    operator: bool
    call_id: str
    resource: ChangedResource
    resource_id: str
    verb: ChangeVerb
    details: Mapping[str, str]
    key_id: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Selects entries. None and empty sets select all. `end_time` is exclusive, in microseconds."""

    start_time: int | None = None
    end_time: int | None = None
    actor: str | None = None
    resources: frozenset[ChangedResource] = frozenset()
    resource_id: str | None = None
    verbs: frozenset[ChangeVerb] = frozenset()


@dataclass(frozen=True, slots=True)
class LogHead:
    """An entry of a log that stands for all before it: the newest one at some time. `change_time` is the entry's."""

    vault_id: str
    revision: int
    mac: bytes
    change_time: int


class AuditFaultKind(StrEnum):
    """Kinds of what a verification finds. The API has the same names."""

    CHANGED = "changed"
    MISSING = "missing"
    BEGINNING = "beginning"
    UNPROTECTED = "unprotected"
    KEY_UNKNOWN = "key_unknown"
    KEY_ORDER = "key_order"
    TRUNCATED = "truncated"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class AuditFault:
    """A fault of an entry of a vault's log."""

    vault_id: str
    revision: int
    kind: AuditFaultKind


@dataclass(slots=True)
class AuditReport:
    """The findings of a part of a verification. `heads` are of the logs whose end was reached.

    `unprotected_count` is how many entries have no MAC, because the server had no key.
    """

    entry_count: int = 0
    unprotected_count: int = 0
    faults: list[AuditFault] = field(default_factory=list)
    heads: list[LogHead] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Returns whether it has as much as is reported at once."""
        entries = self.entry_count >= REPORT_ENTRIES
        return entries or len(self.heads) >= REPORT_LOGS or len(self.faults) >= REPORT_FAULTS

    def add(self, vault_id: str, revision: int, kind: AuditFaultKind) -> None:
        """Adds a fault."""
        self.faults.append(AuditFault(vault_id, revision, kind))
