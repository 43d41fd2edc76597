"""Findings about the keys that a database needs and the settings lack."""

from collections.abc import Iterator, Sequence

from metamorphd.chain import Chain
from metamorphd.errors import DomainError
from metamorphd.keys.holder import KeyHolder
from metamorphd.models.caller import server_scope
from metamorphd.models.finding import Finding, failed, ok, warning
from metamorphd.store.data_keys import list_wrapping_keys
from metamorphd.store.database import Database
from metamorphd.store.verification import list_chain_keys

# IDs in a finding: one is usual.
MOST_SHOWN = 3


class NeededKeys:
    """Compares the IDs of keys in a database with the keys that `holder` and `chain` have. No key is read or shown."""

    def __init__(self, *, database: Database, holder: KeyHolder, chain: Chain) -> None:
        self._database = database
        self._holder = holder
        self._chain = chain

    async def findings(self) -> list[Finding]:
        """Returns what is found now. Nothing if the database cannot be read, which another finding says."""
        try:
            wrapping = await self._database.read_system(list_wrapping_keys, server_scope())
            authenticating = await self._database.read_system(list_chain_keys, server_scope())
        except DomainError:
            return []
        lacking = [key_id for key_id in wrapping if not await self._holder.holds(key_id)]
        return [*_data_keys(wrapping, lacking), *self._logs(authenticating)]

    def _logs(self, key_ids: Sequence[str]) -> Iterator[Finding]:
        lacking = [key_id for key_id in key_ids if self._chain.age_of(key_id) is None]
        remedy = "set AUDIT_KEY to it, or add it to AUDIT_KEY_PREVIOUS (docs/audit.md, The chain)"
        if lacking and not self._chain.key_id:
            what = f"the logs of vaults are authenticated by {_shown(lacking)}, and AUDIT_KEY is not set"
            yield failed("audit-log", f"{what}: what is appended now breaks the chain", remedy)
        elif lacking:
            what = f"the logs of vaults have entries that are authenticated by {_shown(lacking)}"
            yield warning("audit-log", f"{what}, which the server does not have: an audit cannot verify them", remedy)
        elif key_ids:
            yield ok("audit-log", "the server has the keys that authenticate the logs of vaults")


def _data_keys(key_ids: Sequence[str], lacking: Sequence[str]) -> Iterator[Finding]:
    if lacking:
        yield failed(
            "data-keys",
            f"the data keys of vaults are wrapped by {_shown(lacking)}, which the server does not have: their secrets "
            "cannot be read",
            "set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE as before, or add the key to "
            "TOKEN_ENCRYPTION_KEY_PREVIOUS (docs/secrets.md, The key)",
        )
    elif key_ids:
        yield ok("data-keys", "the server has the keys that wrap the data keys of vaults")


def _shown(key_ids: Sequence[str]) -> str:
    """Returns the IDs of keys as text, the first ones of many."""
    listed = ", ".join(key_ids[:MOST_SHOWN])
    more = " and others" if len(key_ids) > MOST_SHOWN else ""
    return f"{'key' if len(key_ids) == 1 else 'keys'} {listed}{more}"
