"""Counts of records, for people."""

from collections.abc import Mapping

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
    return ", ".join(f"{counts[kind]:,} {_noun(kind, counts[kind])}" for kind in kinds) or "nothing"


def _noun(kind: str, count: int) -> str:
    # A later server's kinds have no nouns here.
    one, several = NOUNS.get(kind, (f"record of kind {kind}", f"records of kind {kind}"))
    return one if count == 1 else several
