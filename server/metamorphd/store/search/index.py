"""The full-text index of messages, which each database brings itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

# A message is searched by its beginning: what one costs to search is bounded then, and nobody looks for more.
SEARCHED_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True)
class IndexedText:
    """A message that was found, and the text that it was found by."""

    message_id: str
    text: str


class SearchIndex(ABC):
    """The index of one vault, as one transaction sees it.

    A message matches all of some phrases: words that follow each other in its text, compared without case and accents.
    """

    __slots__ = ()

    @abstractmethod
    async def create(self, *, session_id: str, message_id: str, text: str) -> None:
        """Adds a message. `text` has at most `SEARCHED_CHARACTERS`."""

    @abstractmethod
    async def delete_message(self, *, message_id: str) -> None:
        """Removes a message, if it was added."""

    @abstractmethod
    async def delete_session(self, *, session_id: str) -> None:
        """Removes all messages of a session."""

    @abstractmethod
    async def query(
        self, *, phrases: Sequence[str], session_id: str | None, offset: int, limit: int
    ) -> list[IndexedText]:
        """Returns messages that match, at most `limit` after the first `offset`, best first, newest among equals.

        Every phrase has a letter or a digit, and neither a quotation mark nor a NUL. What other vaults hold changes
        nothing, neither the order nor how long it takes.
        """
