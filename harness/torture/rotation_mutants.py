"""Faults of rotations."""

from typing import Any

from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.data_key import DataKey
from metamorphd.secrets import rotation

from harness.mutants import Patch, mutant

ROTATION: Any = rotation
FAILED = "reads of secrets that failed, or had another value"
LEFT = "data keys that the old key still wraps"


@mutant("rotation-makes-other-keys", harness="rotation", shown_by={FAILED})
def _rotation_makes_other_keys(patch: Patch) -> None:
    async def made(self: VaultKeys, vault_id: str, data_key: DataKey) -> DataKey:
        return await self.create(vault_id, data_key_id=data_key.data_key_id)

    patch(VaultKeys, "rewrap", made)


@mutant("rotation-does-nothing", harness="rotation", shown_by={LEFT})
def _rotation_does_nothing(patch: Patch) -> None:
    """It takes the last step as one that has no successor, and does not look again."""

    async def work(self: Any) -> None:
        """Does nothing."""

    patch(ROTATION.Rotation, "work", work)
