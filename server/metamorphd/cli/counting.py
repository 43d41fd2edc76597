"""Counts of records, for people."""

from collections.abc import Mapping

from metamorphd.models.counted import counted

# Of each kind of record, one and several. The order is that in which they are listed.
NOUNS = {
    "session": ("session", "sessions"),
    "message": ("message", "messages"),
    "turn": ("turn", "turns"),
    "attachment": ("attachment", "attachments"),
    "attachment_chunk": ("chunk of attachments", "chunks of attachments"),
    "memory": ("memory", "memories"),
    "usage": ("record of usage", "records of usage"),
    "subject_usage": ("record of usage by user or label", "records of usage by user or label"),
    "vault": ("record of the vault's settings", "records of vaults' settings"),
    "subject_budget": ("budget of a user or label", "budgets of users and labels"),
    "secret": ("secret", "secrets"),
    "secret_version": ("version of secrets", "versions of secrets"),
    "unknown": ("record", "records"),
}


def listed(counts: Mapping[str, int]) -> str:
    """Returns how many records of each kind there are, or `nothing`."""
    kinds = [kind for kind in (*NOUNS, *sorted(counts.keys() - NOUNS.keys())) if kind in counts]
    return ", ".join(counted(counts[kind], *_nouns(kind)) for kind in kinds) or "nothing"


def _nouns(kind: str) -> tuple[str, str]:
    # A later server's kinds have no nouns here.
    return NOUNS.get(kind, (f"record of kind {kind}", f"records of kind {kind}"))
