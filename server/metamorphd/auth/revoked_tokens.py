"""Revoked tokens, in memory: checked by every call, and open streams are notified of changes."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from metamorphd.auth.claims import LEEWAY, LEEWAY_SECONDS
from metamorphd.errors import StoreNotReady, TokenRevoked
from metamorphd.models.caller import Caller
from metamorphd.models.revocation import Revocation


class RevokedTokens:
    """The revoked tokens: those given to `load`, those added since, and those of keys that are no longer trusted.

    Before `load`, every caller is refused.
    """

    def __init__(self) -> None:
        self._loaded = False
        self._trusted: AbstractSet[str] = frozenset()
        self._tokens: set[tuple[str, str]] = set()
        self._issued_before: dict[tuple[str, str], int] = {}
        self._listeners: list[Callable[[], None]] = []

    def load(self, revocations: Iterable[Revocation]) -> None:
        """Adds the stored revocations, and calls the listeners."""
        for revocation in revocations:
            self._keep(revocation)
        self._loaded = True
        self._notify()

    def add(self, revocation: Revocation) -> None:
        """Adds a revocation that is already stored, and calls the listeners."""
        self._keep(revocation)
        self._notify()

    def trust(self, keys: AbstractSet[str]) -> None:
        """Sets the digests of the trusted public keys, and calls the listeners if one of those before is missing."""
        left, self._trusted = self._trusted - keys, keys
        if left:
            self._notify()

    def listen(self, listener: Callable[[], None]) -> None:
        """Registers `listener`, which is called after every `load` and `add`, and when a key is no longer trusted."""
        self._listeners.append(listener)

    def check(self, caller: Caller) -> None:
        """Raises TokenRevoked if the caller's token is revoked. One without an issue time counts as issued before.

        So does one whose issue time is after the revocation by no more than the leeway: its issuer's clock may be
        ahead, and the token may be older. Raises StoreNotReady before `load`.
        """
        if not self._loaded:
            raise StoreNotReady(retry_delay=1.0)
        if caller.key is not None and caller.key not in self._trusted:
            raise TokenRevoked("kid is not in the key set any more")
        if self._tokens and (caller.vault_id, caller.token_id) in self._tokens:
            raise TokenRevoked("jti is revoked")
        if not self._issued_before:
            return
        before = self._issued_before.get((caller.vault_id, caller.user_id))
        if before is None:
            return
        if caller.issue_time is None:
            raise TokenRevoked("iat is missing, and tokens of the user are revoked")
        if caller.issue_time <= before + LEEWAY:
            raise TokenRevoked(f"iat is not {LEEWAY_SECONDS} seconds after the revocation of the user's tokens")

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def _keep(self, revocation: Revocation) -> None:
        if revocation.token_id is not None:
            self._tokens.add((revocation.vault_id, revocation.token_id))
        if revocation.user_id is not None and revocation.issued_before is not None:
            key = revocation.vault_id, revocation.user_id
            self._issued_before[key] = max(revocation.issued_before, self._issued_before.get(key, 0))
