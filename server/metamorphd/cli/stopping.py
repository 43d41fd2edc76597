"""Ctrl-C while a reply is shown."""

import asyncio
import signal
from typing import Self

from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1.chat_service_pb2 import CancelTurnRequest

from metamorphd.cli.terminal import Terminal

GIVE_UP_SECONDS = 30.0


class Left(Exception):
    """A reply was left before its end."""


class Stopping:
    """Ctrl-C in a block that shows a turn: the first cancels the turn, the second the task."""

    def __init__(self, client: MetamorphClient, terminal: Terminal) -> None:
        self._client = client
        self._terminal = terminal
        self._pressed = False
        self._cancelling: asyncio.Task[None] | None = None
        self.turn_id = ""

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        if self._cancelling is not None:
            self._cancelling.cancel()

    def is_of(self, turn_id: str) -> None:
        """Takes the turn's ID, which is not known before its first event. A turn that was stopped by then ends."""
        self.turn_id = turn_id
        if self._pressed and self._cancelling is None:
            self._cancelling = asyncio.create_task(self._cancel())

    def _press(self) -> None:
        if self._pressed and self._task is not None:
            self._task.cancel()
        self._pressed = True
        self._terminal.status("Stopping the reply. Ctrl-C leaves it", stays=True)
        if self.turn_id:
            self.is_of(self.turn_id)

    async def _cancel(self) -> None:
        request = CancelTurnRequest(turn_id=self.turn_id)
        try:
            await self._client.chat.CancelTurn(request, wait_for_ready=True, timeout=GIVE_UP_SECONDS)
        except MetamorphError as exc:
            self._terminal.note(f"The reply was not stopped: {exc}")
