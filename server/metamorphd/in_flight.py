"""The memory that large requests and prompts share, so that one vault cannot take all of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from metamorphd.errors import BytesInFlightExceeded

RETRY_SECONDS = 1.0
FREED_BYTES = 1024 * 1024


class BytesInFlight:
    """Counts bytes in use, at most `total`, and `per_vault` for one vault. Those of a vault are kept while it has any.

    Calls `freed` when megabytes are no longer in use.

    What is counted is sizes on the wire; while bytes are converted there are two or three copies.
    """

    def __init__(self, *, total: int, per_vault: int, freed: Callable[[], None] = lambda: None) -> None:
        self.used = 0
        self._freed = freed
        self._total = total
        self._per_vault = min(total, per_vault)
        self._of_vault: Counter[str] = Counter()
        self._waiting: list[tuple[Hold, int, asyncio.Future[None]]] = []

    def hold(self, vault_id: str) -> "Hold":
        """Returns a share of 0 bytes, to resize and to release."""
        return Hold(self, vault_id)

    @asynccontextmanager
    async def reserved(self, vault_id: str, size: int) -> AsyncGenerator[None]:
        """Waits until `size` bytes are free, first come, first served, and uses them until the block ends.

        Who waits for one vault's share is passed by other vaults. More than a vault may have counts as all of it.
        """
        hold, size = self.hold(vault_id), min(size, self._per_vault)
        try:
            if not self._take(hold, size):
                granted = asyncio.get_running_loop().create_future()
                self._waiting.append((hold, size, granted))
                await granted
            yield
        finally:
            self._waiting = [waiting for waiting in self._waiting if waiting[0] is not hold]
            hold.release()

    def resize(self, hold: "Hold", size: int) -> None:
        """Changes a share. Raises BytesInFlightExceeded if it does not fit."""
        if not self._take(hold, size):
            vaults = self._of_vault[hold.vault_id] - hold.size + size > self._per_vault
            limit = self._per_vault if vaults else self._total
            raise BytesInFlightExceeded(limit_bytes=limit, retry_delay=RETRY_SECONDS)

    def _take(self, hold: "Hold", size: int) -> bool:
        more = size - hold.size
        vault = self._of_vault[hold.vault_id] + more
        if more > 0 and (vault > self._per_vault or self.used + more > self._total):
            return False
        self.used += more
        hold.size = size
        if vault:
            self._of_vault[hold.vault_id] = vault
        else:
            del self._of_vault[hold.vault_id]
        if more <= -FREED_BYTES:
            self._freed()
        if more < 0:
            self._grant()
        return True

    def _grant(self) -> None:
        for hold, size, granted in self._waiting:
            if not granted.done() and self._take(hold, size):
                granted.set_result(None)


class Hold:
    """The share of one call. `size` is in bytes."""

    __slots__ = ("_bytes", "size", "vault_id")

    def __init__(self, shared: BytesInFlight, vault_id: str) -> None:
        self.size = 0
        self.vault_id = vault_id
        self._bytes = shared

    def resize(self, size: int) -> None:
        """Changes the share. Raises BytesInFlightExceeded."""
        if size != self.size:
            self._bytes.resize(self, size)

    def release(self) -> None:
        """Gives the share back. Can be repeated."""
        if self.size:
            self._bytes.resize(self, 0)
