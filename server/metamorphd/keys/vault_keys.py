"""The data keys of vaults, and what they encrypt."""

import hmac
import os
from hashlib import sha256

import structlog

from metamorphd.errors import CiphertextDamaged, KeyUnavailable
from metamorphd.keys.holder import KeyHolder
from metamorphd.keys.sealing import KEY_BYTES, NONCE_BYTES, Binding, SealBroken, derived, seal, unseal
from metamorphd.models.data_key import DataKey
from metamorphd.models.secret import Place, SealedVersion

logger = structlog.get_logger(__name__)


class VaultKey:
    """A data key, unwrapped, of one vault."""

    def __init__(self, vault_id: str, data_key_id: str, key: bytes) -> None:
        self._vault_id = vault_id
        self._data_key_id = data_key_id
        self._key = key

    def seal_value(self, value: bytes, *, place: Place) -> bytes:
        """Returns the value of a version as it is stored at `place`."""
        return seal(self._key, value, binding=self._binding(place), nonce=os.urandom(NONCE_BYTES))

    def unseal_value(self, sealed: bytes, *, place: Place) -> bytes:
        """Returns the value that was stored at `place`. Raises SealBroken."""
        return unseal(self._key, sealed, binding=self._binding(place))

    def digest(self, body: bytes) -> bytes:
        """Returns a digest of 32 bytes, from which nobody without the key can tell whether a guess is right."""
        return hmac.digest(derived(self._key, purpose=b"request"), body, sha256)

    def value_hmac(self, value: bytes) -> str:
        """Returns what stands for a value in the audit: hexadecimal digits, the same for the same value only."""
        return hmac.digest(derived(self._key, purpose=b"audited value"), value, sha256).hex()

    def _binding(self, place: Place) -> Binding:
        return (
            "secret_versions.sealed_value",
            self._vault_id,
            place.secret_id,
            place.name,
            str(place.version),
            self._data_key_id,
        )


class VaultKeys:
    """Makes, unwraps and rewraps the data keys of vaults with the keys that `holder` has."""

    def __init__(self, holder: KeyHolder) -> None:
        self.holder = holder

    def require(self) -> None:
        """Raises EncryptionNotConfigured if there is no key to encrypt with."""
        _ = self.holder.key_id

    async def create(self, vault_id: str, *, data_key_id: str) -> DataKey:
        """Returns a new random data key of a vault, wrapped. Raises EncryptionNotConfigured."""
        return await self._wrapped(vault_id, data_key_id, os.urandom(KEY_BYTES))

    async def unwrap(self, vault_id: str, data_key: DataKey) -> VaultKey:
        """Returns a data key that can be used.

        Raises KeyUnavailable, CiphertextDamaged, EncryptionNotConfigured.
        """
        return VaultKey(vault_id, data_key.data_key_id, await self._unwrapped(vault_id, data_key))

    async def rewrap(self, vault_id: str, data_key: DataKey) -> DataKey:
        """Returns the same data key, wrapped by the current key. Raises as `unwrap`."""
        return await self._wrapped(vault_id, data_key.data_key_id, await self._unwrapped(vault_id, data_key))

    async def open(self, vault_id: str, sealed: SealedVersion) -> bytes:
        """Returns the value of a version. Raises as `unwrap`, and KeyUnavailable if the vault's data key is gone."""
        if sealed.data_key is None:
            raise KeyUnavailable(key_id=sealed.data_key_id)
        key = await self.unwrap(vault_id, sealed.data_key)
        try:
            return key.unseal_value(sealed.sealed_value, place=sealed.place)
        except SealBroken:
            raise _damaged(vault_id, "secret_versions.sealed_value", sealed.data_key_id) from None

    async def _wrapped(self, vault_id: str, data_key_id: str, key: bytes) -> DataKey:
        wrapping_key_id, wrapped = await self.holder.wrap(
            key, binding=_binding(vault_id, data_key_id), nonce=os.urandom(NONCE_BYTES)
        )
        return DataKey(data_key_id, wrapping_key_id, wrapped)

    async def _unwrapped(self, vault_id: str, data_key: DataKey) -> bytes:
        try:
            return await self.holder.unwrap(
                data_key.wrapped_key,
                key_id=data_key.wrapping_key_id,
                binding=_binding(vault_id, data_key.data_key_id),
            )
        except SealBroken:
            raise _damaged(vault_id, "data_keys.wrapped_key", data_key.wrapping_key_id) from None


def _binding(vault_id: str, data_key_id: str) -> Binding:
    return ("data_keys.wrapped_key", vault_id, data_key_id)


def _damaged(vault_id: str, column: str, key_id: str) -> CiphertextDamaged:
    logger.error("what is encrypted cannot be decrypted", vaultId=vault_id, column=column, key_id=key_id)
    return CiphertextDamaged(key_id=key_id)
