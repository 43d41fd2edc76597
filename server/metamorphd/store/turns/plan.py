"""What a message follows, and how it is to be answered, before anything is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metamorphd.catalog import Catalog
from metamorphd.errors import (
    BranchBusy,
    FieldViolation,
    MessageNotFound,
    ModelNotAccepted,
    RequestInvalid,
    SessionNotFound,
    ToolResultRequired,
    ToolResultUnexpected,
)
from metamorphd.models.content import Content, ToolResultBlock, ToolUseBlock
from metamorphd.models.generation import EffectiveOptions, GenerationOptions, contradictions
from metamorphd.store.attachments import describe_attachments
from metamorphd.store.codec import decode_content, decode_options
from metamorphd.store.database import Transaction
from metamorphd.store.messages import get_message

GET_SETTINGS = """
SELECT sessions.model, vaults.default_model, current_leaf_message_id
FROM sessions JOIN vaults ON vaults.vault_id = :vault_id
WHERE sessions.vault_id = :vault_id AND session_id = :session_id
"""
GET_RUNNING = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id AND status = 'RUNNING'
    AND (:user_message_id IS NULL OR user_message_id = :user_message_id)
ORDER BY turn_id
LIMIT 1
"""
# Of a turn that ended otherwise, tool calls are for display only.
GET_PENDING = """
SELECT messages.content, turns.options
FROM messages JOIN turns ON turns.vault_id = :vault_id AND turns.turn_id = messages.turn_id
WHERE messages.vault_id = :vault_id AND message_id = :message_id AND role = 'ASSISTANT'
    AND turns.status = 'COMPLETED' AND turns.stop_reason = 'TOOL_USE'
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the server lets turns do, whosoever they are: what they may ask, and the most that they may write.

    A call that reads more than `compact_above` tokens comes after one that summarises; 0: none does. `owner` is this
    server, whose turns have a lease of `lease` microseconds.
    """

    catalog: Catalog
    default_model: str
    max_output_tokens: int
    max_running_turns: int
    compact_above: int
    owner: str
    lease: int

    def output_tokens(self, options: EffectiveOptions) -> int:
        """The most that a reply may have; `options` name the model."""
        cap = min(self.max_output_tokens, self.catalog.model(options.model).max_output_tokens)
        return min(options.max_output_tokens or cap, cap)


@dataclass(frozen=True, slots=True)
class Plan:
    """`parent_message_id` is None for a root; `content` says all of the attachments that it names; `options` are those
    that will be in force, and name the model."""

    parent_message_id: str | None
    content: Content
    options: EffectiveOptions


async def plan_turn(
    tx: Transaction, *, session_id: str, parent: str | None, content: Content, options: GenerationOptions, terms: Terms
) -> Plan:
    """What a message of `content` would follow, and how it would be answered.

    `parent`: None is the current leaf, empty a new root, otherwise a message of the session. Raises SessionNotFound,
    AttachmentNotFound, AttachmentTypeMismatch, ModelNotAccepted, MessageNotFound for the parent, BranchBusy,
    ToolResultRequired, ToolResultUnexpected, RequestInvalid for options that contradict each other.
    """
    default_model, leaf = await session_defaults(tx, session_id=session_id, terms=terms)
    content = await describe_attachments(tx, content=content)
    model = options.model or default_model
    refuse_model(model, terms)
    await refuse_busy(tx, session_id=session_id, user_message_id=parent)
    if parent:
        found = await get_message(tx, message_id=parent)
        if found.session_id != session_id:
            raise MessageNotFound(message_id=parent)
    follows = leaf if parent is None else parent or None
    before = await _options_before(tx, follows=follows, content=content)
    effective = replace(options.over(before), model=model)
    refuse_contradictions(effective, terms)
    return Plan(follows, content, effective)


async def session_defaults(tx: Transaction, *, session_id: str, terms: Terms) -> tuple[str, str | None]:
    """Returns the model and the parent of messages that state none: the session's, then the vault's, then the server's
    model, and the current leaf. Raises SessionNotFound."""
    row = await tx.one(GET_SETTINGS, session_id=session_id)
    if row is None:
        raise SessionNotFound(session_id=session_id)
    return row.model or row.default_model or terms.default_model, row.current_leaf_message_id


def refuse_model(model: str, terms: Terms) -> None:
    """Raises ModelNotAccepted if the catalog lacks it."""
    if not terms.catalog.accepts(model):
        raise ModelNotAccepted(model=model)


def refuse_contradictions(options: EffectiveOptions, terms: Terms) -> None:
    """Raises RequestInvalid for options that contradict each other. The catalog has their model."""
    faults = contradictions(options, output_tokens=terms.output_tokens(options))
    violations = [FieldViolation(f"options.{path}", description) for path, description in faults]
    if violations:
        raise RequestInvalid(violations=violations)


async def refuse_busy(tx: Transaction, *, session_id: str, user_message_id: str | None) -> None:
    """Raises BranchBusy while a turn answers that message; None stands for any of the session."""
    busy = await tx.one(GET_RUNNING, session_id=session_id, user_message_id=user_message_id)
    if busy is not None:
        raise BranchBusy(turn_id=busy.turn_id)


async def _options_before(tx: Transaction, *, follows: str | None, content: Content) -> EffectiveOptions:
    """Returns what holds for `content` where its options are absent: with a tool's results the tools, the thinking and
    the schema of the turn before, which the provider wants as they were; else the defaults.

    Raises ToolResultRequired, ToolResultUnexpected.
    """
    results = [block.tool_use_id for block in content if isinstance(block, ToolResultBlock)]
    asked = None if follows is None else await tx.one(GET_PENDING, message_id=follows)
    if asked is not None:
        _refuse_other_results(decode_content(asked.content), results)
    elif results:
        raise ToolResultUnexpected(tool_use_ids=",".join(results))
    if asked is None or not results:
        return EffectiveOptions()
    before = decode_options(asked.options)
    return EffectiveOptions(tools=before.tools, thinking=before.thinking, response_schema=before.response_schema)


def _refuse_other_results(reply: Content, results: Sequence[str]) -> None:
    pending = [block.tool_use_id for block in reply if isinstance(block, ToolUseBlock)]
    if set(results) - set(pending):
        raise ToolResultUnexpected(tool_use_ids=",".join(result for result in results if result not in pending))
    if sorted(results) != sorted(pending):
        raise ToolResultRequired(tool_use_ids=",".join(pending))
