"""Long work that goes on without the call that began it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class OperationKind(StrEnum):
    """The kinds of long work. The API has the same names."""

    CREATE_BACKUP = "create_backup"
    VERIFY_BACKUP = "verify_backup"
    ROTATE_DATA_KEYS = "rotate_data_keys"
    ERASE_VAULT = "erase_vault"
    IMPORT_VAULT = "import_vault"
    EXPORT_VAULT = "export_vault"


# They find by themselves what is left to do, after a restart too. The others are lost with their server,
# but for an import that is decided.
RESUMABLE = frozenset({OperationKind.ROTATE_DATA_KEYS, OperationKind.ERASE_VAULT})


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of `total` units are done. `total` is 0 if it is not known."""

    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation did not succeed: a reason, spelled as in ErrorInfo, and a message for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Operation:
    """Long work. `vault_id` is empty for the whole server's, and `creator` for what the server began itself.

    `target` is what it is done to, or makes. `end_time` is None while it goes on, `failure` also if it succeeded.
    `counts` are its result.
    """

    operation_id: str
    vault_id: str
    kind: OperationKind
    target: str
    creator: str
    progress: Progress
    create_time: int
    end_time: int | None = None
    failure: Failure | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
