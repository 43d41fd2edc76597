"""The log of a vault, as an audit sees it."""

from collections.abc import Mapping
from dataclasses import dataclass

from metamorphd.models.change import ChangedResource, ChangeVerb


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry of a vault's log. `actor` is a user of the vault, or empty for the server and its operator.

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
