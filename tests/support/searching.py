"""A vault that is searched."""

from metamorphd.models.caller import Scope
from metamorphd.models.message import MessageMatch
from metamorphd.models.page import Page
from metamorphd.store.database import Database
from metamorphd.store.search.query import phrases_of, search_messages

from tests.support.rows import new_session, stored_message

Position = tuple[int | str, ...]


class Vault:
    """A vault with a session, and the texts of its messages by their IDs."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self.database = database
        self.scope = scope
        self.texts: dict[str, str] = {}
        self.session = ""

    async def add(self, *texts: str, session_id: str = "") -> list[str]:
        """Stores messages, and returns their IDs."""
        if not self.session:
            self.session = (await new_session(self.database, self.scope)).session_id
        added = []
        for text in texts:
            message = await stored_message(self.database, session_id or self.session, text, scope=self.scope)
            self.texts[message.message_id] = text
            added.append(message.message_id)
        return added

    async def page(
        self, text: str, *, session_id: str | None = None, after: Position | None = None, page_size: int = 100
    ) -> tuple[list[str], Position | None]:
        """Returns the texts of a page of matches, and where the next one begins."""
        page = await self._page(text, session_id=session_id, after=after, page_size=page_size)
        return [self.texts[match.message_id] for match in page.items], page.next_after

    async def found(self, text: str, *, session_id: str | None = None, page_size: int = 100) -> list[str]:
        """Returns the texts of all matches."""
        texts, after = await self.page(text, session_id=session_id, page_size=page_size)
        while after is not None:
            more, after = await self.page(text, session_id=session_id, after=after, page_size=page_size)
            texts += more
        return texts

    async def highlights(self, text: str) -> list[list[str]]:
        """Returns what is highlighted in each match of the first page."""
        page = await self._page(text, session_id=None, after=None, page_size=100)
        return [[match.snippet[part.start : part.end] for part in match.highlights] for match in page.items]

    async def _page(
        self, text: str, *, session_id: str | None, after: Position | None, page_size: int
    ) -> Page[MessageMatch]:
        return await self.database.read(
            search_messages,
            self.scope,
            phrases=phrases_of(text),
            session_id=session_id,
            after=after,
            page_size=page_size,
        )
