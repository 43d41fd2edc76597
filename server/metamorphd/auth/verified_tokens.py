"""The callers of verified tokens, in memory."""

import heapq
from dataclasses import dataclass

from metamorphd.models.caller import Caller

# The share that is freed when there is no more room: finding the largest vaults costs too much for each token.
FREED = 10


@dataclass(frozen=True, slots=True)
class Verified:
    """A verified caller; valid until `until`, in microseconds since the epoch."""

    caller: Caller
    until: int


class VerifiedTokens:
    """Callers by token, at most `size`. For more room, the vaults with the most lose their oldest.

    So a vault with many tokens takes no place from those with few.
    """

    def __init__(self, *, size: int) -> None:
        self._size = size
        self._tokens: dict[str, Verified] = {}
        self._vaults: dict[str, dict[str, None]] = {}

    def get(self, text: str) -> Verified | None:
        """Returns what is known of a token, even if it is no longer valid, or None."""
        return self._tokens.get(text)

    def keep(self, text: str, verified: Verified) -> None:
        """Keeps a token, as the newest of its vault."""
        self.forget(text)
        if len(self._tokens) >= self._size:
            self._make_room()
        self._tokens[text] = verified
        self._vaults.setdefault(verified.caller.vault_id, {})[text] = None

    def forget(self, text: str) -> None:
        """Forgets a token, if it is known."""
        known = self._tokens.pop(text, None)
        if known is not None:
            vault_id = known.caller.vault_id
            del self._vaults[vault_id][text]
            if not self._vaults[vault_id]:
                del self._vaults[vault_id]

    def _make_room(self) -> None:
        largest = [(-len(texts), vault_id) for vault_id, texts in self._vaults.items()]
        heapq.heapify(largest)
        for _ in range(max(self._size // FREED, 1)):
            count, vault_id = largest[0]
            self.forget(next(iter(self._vaults[vault_id])))
            if count + 1:
                heapq.heapreplace(largest, (count + 1, vault_id))
            else:
                heapq.heappop(largest)
