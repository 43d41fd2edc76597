"""An export while it is written, for those who read it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from metamorphd.errors import DomainError
from metamorphd.models.export import FORMAT, FORMAT_VERSION, Export
from metamorphd.operations import Running


class Writing:
    """An export that is being written, or that this server has written. `written` is how many bytes are there.

    `operation_id` is empty if an earlier server has written it.
    """

    def __init__(
        self,
        export_id: str,
        vault_id: str,
        path: Path,
        *,
        create_time: int,
        expected_size: int,
        operation_id: str = "",
    ) -> None:
        self.export_id = export_id
        self.vault_id = vault_id
        self.path = path
        self.create_time = create_time
        self.expected_size = expected_size
        self.operation_id = operation_id
        self.written = 0
        self.complete = False
        self.error: DomainError | None = None
        self.counts: dict[str, int] = {}
        self.task: asyncio.Task[None] | None = None
        self.running: Running | None = None
        self._begun = False
        self._grown = asyncio.Event()

    @property
    def described(self) -> Export:
        """Returns what callers see of it."""
        size = self.written if self.complete else 0
        return Export(self.export_id, self.create_time, size, size or self.expected_size, self.operation_id)

    def header(self, revision: int, *, sealed: bool) -> Mapping[str, object]:
        """Returns the first record of the file, with the vault's revision and whether secrets have their values."""
        return {
            "kind": "header",
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "export_id": self.export_id,
            "vault_id": self.vault_id,
            "revision": revision,
            "create_time": self.create_time,
            "secrets": "sealed" if sealed else "names",
        }

    def trailer(self, sha256: str) -> Mapping[str, object]:
        """Returns the last record of the file, with the SHA-256 of those before it."""
        return {"kind": "trailer", "counts": self.counts, "sha256": sha256}

    def count(self, counts: Mapping[str, int]) -> None:
        """Records how many records of each kind were written."""
        for kind, count in counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count

    def grow(self, size: int) -> None:
        """Records that `size` bytes were written, or that something else has happened, and wakes up those who read."""
        self.written += size
        self._grown.set()
        self._grown = asyncio.Event()

    async def beyond(self, offset: int) -> bool:
        """Returns whether there are bytes after `offset`, once that is known. Raises what has ended the writing."""
        while self.written <= offset and not self.complete and self.error is None:
            await self._grown.wait()
        if self.written <= offset and self.error is not None:
            raise self.error.with_traceback(None)
        return self.written > offset

    def begin(self) -> None:
        """Is called by its task. Raises what has ended it before that."""
        self._begun = True
        if self.error is not None:
            raise self.error

    def stop(self, error: DomainError) -> None:
        """Ends the writing with an error, for those who read and for the operation, unless it is complete or ends."""
        if self.complete or self.error is not None:
            return
        self.error = error
        # A task that is cancelled before its first step would leave an operation that never ends.
        if self._begun and self.task is not None:
            self.task.cancel()
