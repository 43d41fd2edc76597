"""Generates titles for sessions without one."""

import asyncio
from contextlib import aclosing

import structlog

from metamorphd.catalog import Catalog
from metamorphd.chat.insistence import Insistent
from metamorphd.chat.live_turn import LiveTurn
from metamorphd.chat.meter import Meter, Tariff
from metamorphd.chat.reply_size import ReplySize
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.clock import Clock
from metamorphd.errors import DomainError
from metamorphd.llm.interface import Model, Prompt, PromptMessage, ReplyStop, ReplyText, ReplyUsage
from metamorphd.models.caller import Scope
from metamorphd.models.content import TextBlock, text_of
from metamorphd.models.generation import EffectiveOptions, Thinking
from metamorphd.models.message import Message, Role
from metamorphd.models.turn import StopReason, TurnFinished, TurnStatus
from metamorphd.store.database import Database
from metamorphd.store.messages import get_message
from metamorphd.store.session_titles import set_title, wants_title

INSTRUCTIONS = (
    "You name conversations. Answer with a title of at most six words for the one that you are shown, in its language, "
    "without quotation marks or a full stop, and with nothing else."
)
LONGEST_TITLE = 100
# A title has a few, but a model that thinks before it answers needs far more.
TITLE_TOKENS = 2048
# The stop reasons of a whole reply.
COMPLETE = (StopReason.END_TURN, StopReason.STOP_SEQUENCE)
NO_TEXT = "NO_TEXT"
# The beginning of each message that the model reads, which is enough to find a title.
READ_CHARACTERS = 2000
LONGEST_SECONDS = 30.0
# In bytes, thinking included: far more than TITLE_TOKENS have. A provider that does not stop there is left.
LARGEST_REPLY = 64 * 1024

logger = structlog.get_logger(__name__)


class Titles:
    """Generates titles with `title_model`, or none if that is empty."""

    def __init__(
        self,
        *,
        database: Database,
        model: Model,
        catalog: Catalog,
        clock: Clock,
        metrics: TurnMetrics,
        title_model: str,
    ) -> None:
        self._database = database
        self._insistent = Insistent(database)
        self._model = model
        self._catalog = catalog
        self._tariff = Tariff(catalog=catalog, charges=model.charges)
        self._clock = clock
        self._metrics = metrics
        self._title_model = title_model
        # By vault and session, those that are being named.
        self._naming: dict[tuple[str, str], asyncio.Task[None] | None] = {}

    def cancel(self, vault_id: str) -> None:
        """Stops the naming of a vault's sessions. What it has used so far is counted."""
        for (vault, _), task in self._naming.items():
            if vault == vault_id and task is not None:
                task.cancel()

    async def name_session(self, scope: Scope, live: LiveTurn, finished: TurnFinished | None) -> None:
        """Titles the session of a completed turn, if it has no title. Errors are only logged.

        One that is being named is not named twice: turns that end meanwhile would each pay for a call.
        """
        if not self._title_model or finished is None or finished.status is not TurnStatus.COMPLETED:
            return
        reply = finished.message
        if reply is None or not text_of(reply.content):
            return
        named = (scope.vault_id, reply.session_id)
        if named in self._naming:
            return
        self._naming[named] = asyncio.current_task()
        try:
            await self._name_session(scope, live, reply)
        finally:
            del self._naming[named]

    async def _name_session(self, scope: Scope, live: LiveTurn, reply: Message) -> None:
        try:
            if not await self._database.read(wants_title, scope, turn=live.turn, now=self._clock.now()):
                return
            missing = await self._name(scope, live, reply)
        except DomainError as exc:
            missing = exc.reason_name()
        except TimeoutError:
            missing = "TURN_TIMEOUT"
        except Exception:
            logger.exception("session stays without a title", vaultId=scope.vault_id)
            return
        if missing:
            logger.warning(
                "session stays without a title", vaultId=scope.vault_id, session_id=reply.session_id, reason=missing
            )

    async def _name(self, scope: Scope, live: LiveTurn, reply: Message) -> str:
        """Returns why there is no title, or nothing if there is one."""
        prompt = await self._prompt(scope, reply)
        meter = Meter(self._tariff, prompt)
        text, stop_reason = "", None
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                text, stop_reason = await self._read(prompt, meter)
        except DomainError:
            meter.fail()
            raise
        finally:
            # A title that was cut off is not used, and neither is a refusal.
            title = _title(text) if stop_reason in COMPLETE else ""
            # The provider charges for failed calls too.
            usage = meter.usage
            await self._insistent.write(
                set_title,
                scope,
                turn=live.turn,
                life=live.life,
                title=title,
                model=self._title_model,
                usage=usage,
                now=self._clock.now(),
            )
            self._metrics.used(self._title_model, usage)
        return "" if title else NO_TEXT if stop_reason in COMPLETE else str(stop_reason)

    async def _read(self, prompt: Prompt, meter: Meter) -> tuple[str, StopReason]:
        """Returns the text of a reply and why it ended. Ends one that is larger than LARGEST_REPLY, as MAX_TOKENS."""
        text, size = "", ReplySize(LARGEST_REPLY)
        async with aclosing(self._model.generate(prompt)) as batches:
            async for batch in batches:
                for event in batch:
                    match event:
                        case ReplyUsage():
                            meter.read(event)
                        case ReplyStop():
                            return text, event.stop_reason
                        case _:
                            fitting = size.fitting(event)
                            text += fitting.text if isinstance(fitting, ReplyText) else ""
                if size.full:
                    return text, StopReason.MAX_TOKENS
        raise RuntimeError("the model ended a reply without ReplyStop")

    async def _prompt(self, scope: Scope, reply: Message) -> Prompt:
        user_message = await self._database.read(get_message, scope, message_id=reply.parent_message_id or "")
        excerpt = "\n\n".join(
            f"<{role}>\n{text_of(message.content)[:READ_CHARACTERS]}\n</{role}>"
            for role, message in (("user", user_message), ("assistant", reply))
        )
        options = EffectiveOptions(model=self._title_model, max_output_tokens=TITLE_TOKENS, thinking=self._thinking())
        messages = (PromptMessage(Role.USER, (TextBlock(excerpt),)),)
        return Prompt(
            INSTRUCTIONS,
            messages,
            {},
            options,
            text_bytes=len(excerpt.encode()),
            session_id=reply.session_id,
            span=scope.span,
        )

    def _thinking(self) -> Thinking:
        """Returns the least thinking that the model accepts."""
        accepted = self._catalog.model(self._title_model).capabilities.thinking
        return Thinking(next((mode for mode in ("disabled", "between_tools") if mode in accepted), ""))


def _title(text: str) -> str:
    """Returns the title in a model's text, without what it puts around it, or nothing."""
    return " ".join(text.split()).strip("\"“”' ")[:LONGEST_TITLE].rstrip()
