"""Puts and gets secrets: encryption is done here, outside of the store's transactions."""

from dataclasses import replace

from metamorphd.clock import Clock
from metamorphd.errors import StoreBusy
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.caller import Scope
from metamorphd.models.secret import NewVersion, Place, SecretState, SecretVersion
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.secrets import StateChanged, get_secret_state, put_secret, read_secret

# Each time, one of those who put the same secret at once succeeds.
MOST_ATTEMPTS = 100
RETRY_SECONDS = 1.0


class Secrets:
    """The secrets of vaults. `storage_limit` is how many bytes a vault may store, 0 for no limit."""

    def __init__(self, *, database: Database, keys: VaultKeys, clock: Clock, storage_limit: int) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._storage_limit = storage_limit

    def require(self) -> None:
        """Raises EncryptionNotConfigured if secrets cannot be stored."""
        self._keys.require()

    async def put(
        self, scope: Scope, new: NewVersion, *, value: bytes, request: IdempotencyKey | None
    ) -> tuple[SecretVersion, int]:
        """Stores a new version of a secret, or returns the one that `request` stored. Returns the vault's revision too.

        Raises EncryptionNotConfigured, KeyUnavailable, CiphertextDamaged, SecretVersionMismatch, StorageQuotaExceeded,
        RequestIdReused, SecretVersionNotFound, and StoreBusy if too many put this secret at once.
        """
        self.require()
        for _ in range(MOST_ATTEMPTS):
            state = await self._database.read(get_secret_state, scope, name=new.name, now=self._clock.now())
            try:
                return await self._put(scope, new, value, state, request)
            except StateChanged:
                continue
        raise StoreBusy(retry_delay=RETRY_SECONDS)

    async def _put(
        self, scope: Scope, new: NewVersion, value: bytes, state: SecretState, request: IdempotencyKey | None
    ) -> tuple[SecretVersion, int]:
        data_key = state.data_key or await self._keys.create(scope.vault_id, data_key_id=self._clock.new_id("dek"))
        key = await self._keys.unwrap(scope.vault_id, data_key)
        place = Place(state.secret_id or self._clock.new_id("sec"), new.name, state.version + 1)
        return await self._database.write(
            revised(put_secret),
            scope,
            new=new,
            place=place,
            sealed_value=key.seal_value(value, place=place),
            value_hmac=key.value_hmac(value),
            state=state,
            data_key=data_key,
            # The vault's hash key lies beside the hash, so that would let guesses be tested.
            request=None if request is None else replace(request, body=key.digest(request.body)),
            hash_key=self._clock.new_key(),
            storage_limit=self._storage_limit,
            now=self._clock.now(),
        )

    async def get(self, scope: Scope, *, name: str, version: int) -> tuple[SecretVersion, bytes, int]:
        """Returns a version, 0 for the newest, its value, and the vault's revision: that it was read is in the log.

        Raises EncryptionNotConfigured, SecretNotFound, SecretVersionNotFound, SecretVersionDestroyed, KeyUnavailable,
        CiphertextDamaged.
        """
        self.require()
        (found, sealed), revision = await self._database.write(
            revised(read_secret), scope, name=name, version=version, now=self._clock.now()
        )
        return found, await self._keys.open(scope.vault_id, sealed), revision
