"""Operations that wait for a thread."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from metamorphd.store.sqlite.transaction import Bound


@dataclass(slots=True, eq=False)
class Waiting:
    """An operation of a vault, and what became of it. `since` is when it began to wait, by the monotonic clock."""

    vault_id: str
    bound: Bound[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    since: float = field(default_factory=time.monotonic)

    def answer(self) -> None:
        """Gives the caller the result, or the error. To be called on the event loop's thread."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)
