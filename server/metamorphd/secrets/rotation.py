"""Rewraps data keys after the key that wraps them was changed, in steps, while they are in use."""

import asyncio
from collections.abc import Callable, Mapping

from metamorphd.clock import Clock
from metamorphd.errors import CiphertextDamaged, EncryptionNotConfigured, KeyUnavailable
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.data_key import DataKey, KeyRotation, StoredDataKey
from metamorphd.models.operation import OperationKind
from metamorphd.operations import Operations, Running
from metamorphd.store.data_keys import (
    BEGINNING,
    count_data_keys_to_rewrap,
    list_data_keys_to_rewrap,
    rewrap_data_keys,
)
from metamorphd.store.database import Database

# They take the writer a millisecond or two, and others have it for the pause.
STEP_DATA_KEYS = 50
PAUSE_SECONDS = 0.01
# Those that cannot be rewrapped are not tried again before.
RETRY = 3_600_000_000


class Rotation:
    """Has every data key wrapped by the current key. All it needs to know is in the rows, so it can stop anywhere."""

    def __init__(self, *, database: Database, keys: VaultKeys, operations: Operations, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._operations = operations
        self._clock = clock
        # Of two who rotate at once, the second finds the operation of the first.
        self._beginning = asyncio.Lock()
        self._running: Running | None = None
        self._resumed = False
        self._unavailable = 0
        self._tried = ""
        self._due = 0
        self._left = 0

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Figures for metrics: by name, what each is and how it is read."""
        return {
            "metamorph_data_keys_to_rewrap": (
                "Data keys that another key than the current one wraps",
                lambda: self._left,
            )
        }

    def require(self) -> None:
        """Raises EncryptionNotConfigured if there is no key."""
        self._keys.require()

    async def rotate(self, scope: Scope) -> KeyRotation:
        """Makes a new key where the server can, and returns the state before anything is rewrapped.

        Raises EncryptionNotConfigured, KeyUnavailable.
        """
        # Shielded: a caller who is gone must not leave an operation that nobody does.
        return await asyncio.shield(self._rotate(scope))

    async def _rotate(self, scope: Scope) -> KeyRotation:
        async with self._beginning:
            await self._keys.holder.rotate(now=self._clock.now())
            self._due = 0
            left = (await self.state(scope)).left
            await self._resume()
            if left and self._running is None:
                server = scope.of_vault("")
                operation = self._operations.new(
                    server,
                    OperationKind.ROTATE_DATA_KEYS,
                    target=self._keys.holder.key_id,
                    unit="data keys",
                    total=left,
                )
                self._running = await self._operations.begin(server, operation)
            return await self.state(scope)

    async def _resume(self) -> None:
        """Takes up an operation that has begun before a restart, unless one goes on here."""
        if not self._resumed:
            self._running = await self._operations.resume(server_scope(), OperationKind.ROTATE_DATA_KEYS)
            self._resumed = self._running is None

    async def state(self, scope: Scope) -> KeyRotation:
        """Returns the state of the keys. Raises EncryptionNotConfigured."""
        holder = self._keys.holder
        left = await self._database.read_system(count_data_keys_to_rewrap, scope, key_id=holder.key_id)
        running = "" if self._running is None else self._running.operation.operation_id
        return KeyRotation(holder.key_id, holder.key_time, left, min(left, self._unavailable), running)

    async def work(self) -> None:
        """Rewraps all that another key wraps, and that can be unwrapped."""
        try:
            key_id = self._keys.holder.key_id
        except EncryptionNotConfigured:
            return
        async with self._beginning:
            await self._resume()
        if self._running is None and key_id == self._tried and self._clock.now() < self._due:
            return
        after, unavailable = BEGINNING, 0
        while page := await self._database.read_system(
            list_data_keys_to_rewrap, server_scope(), key_id=key_id, after=after, limit=STEP_DATA_KEYS
        ):
            rewrapped = [pair for stored in page if (pair := await self._rewrapped(stored)) is not None]
            unavailable += len(page) - len(rewrapped)
            if rewrapped:
                await self._database.write_system(
                    rewrap_data_keys, server_scope(), rewrapped=rewrapped, now=self._clock.now()
                )
            if self._running is not None:
                self._running.advance(self._running.operation.progress.done + len(rewrapped))
            last = page[-1]
            after = (last.data_key.wrapping_key_id, last.vault_id, last.data_key.data_key_id)
            await asyncio.sleep(PAUSE_SECONDS)
        async with self._beginning:
            await self._end_pass(key_id, unavailable)

    async def _end_pass(self, key_id: str, unavailable: int) -> None:
        """Ends the operation, unless the key was changed meanwhile or there is more to rewrap by now."""
        self._unavailable, self._tried = unavailable, key_id
        self._due = self._clock.now() + RETRY if unavailable else 0
        self._left = await self._database.read_system(count_data_keys_to_rewrap, server_scope(), key_id=key_id)
        if self._running is None or key_id != self._keys.holder.key_id or self._left > unavailable:
            return
        self._running.count(data_keys=self._running.operation.progress.done, unavailable=unavailable)
        await self._running.end()
        self._running = None

    async def _rewrapped(self, stored: StoredDataKey) -> tuple[StoredDataKey, DataKey] | None:
        try:
            return stored, await self._keys.rewrap(stored.vault_id, stored.data_key)
        except (KeyUnavailable, CiphertextDamaged):
            return None
