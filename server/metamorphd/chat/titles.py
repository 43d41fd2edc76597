"""Generates titles for sessions without one."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import structlog

from metamorphd.catalog import Catalog
from metamorphd.clock import Clock
from metamorphd.errors import DomainError
from metamorphd.llm.interface import Model, Prompt, PromptMessage, ReplyStop, ReplyText, ReplyUsage
from metamorphd.models.caller import Scope
from metamorphd.models.content import TextBlock, text_of
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.message import Message, Role
from metamorphd.models.turn import TurnFinished, TurnStatus
from metamorphd.models.usage import Usage
from metamorphd.store.database import Database
from metamorphd.store.messages import get_message
from metamorphd.store.session_titles import set_title, wants_title

INSTRUCTIONS = (
    "You name conversations. Answer with a title of at most six words for the one that you are shown, in its language, "
    "without quotation marks or a full stop, and with nothing else."
)
LONGEST_TITLE = 100
TITLE_TOKENS = 64
# The beginning of each message that the model reads, which is enough to find a title.
READ_CHARACTERS = 2000
LONGEST_SECONDS = 30.0

logger = structlog.get_logger(__name__)


class Titles:
    """Generates titles with `title_model`, or none if that is empty."""

    def __init__(self, *, database: Database, model: Model, catalog: Catalog, clock: Clock, title_model: str) -> None:
        self._database = database
        self._model = model
        self._catalog = catalog
        self._clock = clock
        self._title_model = title_model

    async def name_session(self, scope: Scope, finished: TurnFinished | None) -> None:
        """Titles the session of a completed turn, if it has no title. Errors are only logged."""
        if not self._title_model or finished is None or finished.status is not TurnStatus.COMPLETED:
            return
        reply = finished.message
        if reply is None or not text_of(reply.content):
            return
        try:
            if await self._database.read(wants_title, scope, session_id=reply.session_id, now=self._clock.now()):
                await self._name(scope, reply)
        except DomainError as exc:
            logger.info("session stays without a title", vaultId=scope.vault_id, reason=exc.reason_name())
        except TimeoutError:
            logger.info("session stays without a title", vaultId=scope.vault_id, reason="TURN_TIMEOUT")
        except Exception:
            logger.exception("session stays without a title", vaultId=scope.vault_id)

    async def _name(self, scope: Scope, reply: Message) -> None:
        user_message = await self._database.read(get_message, scope, message_id=reply.parent_message_id or "")
        excerpt = "\n\n".join(
            f"<{role}>\n{text_of(message.content)[:READ_CHARACTERS]}\n</{role}>"
            for role, message in (("user", user_message), ("assistant", reply))
        )
        options = EffectiveOptions(model=self._title_model, max_output_tokens=TITLE_TOKENS)
        prompt = Prompt(INSTRUCTIONS, (PromptMessage(Role.USER, (TextBlock(excerpt),)),), {}, options)
        text, title, usage = "", "", Usage()
        try:
            async with asyncio.timeout(LONGEST_SECONDS), aclosing(self._model.generate(prompt)) as batches:
                async for event in (event async for batch in batches for event in batch):
                    match event:
                        case ReplyText():
                            text += event.text
                        case ReplyUsage():
                            usage = event.usage
                        case ReplyStop():
                            # A title that was cut off is not used.
                            title = " ".join(text.split()).strip("\"“”'")[:LONGEST_TITLE]
        finally:
            # The provider charges for failed calls too.
            await self._database.write(
                set_title,
                scope,
                session_id=reply.session_id,
                title=title,
                model=self._title_model,
                usage=replace(usage, cost_usd_nanos=self._catalog.cost(self._title_model, usage)),
                now=self._clock.now(),
            )
