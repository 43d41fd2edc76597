"""Planning turns: what a message follows and how it is answered, before anything is stored."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import orjson

from metamorphd.errors import (
    BranchBusy,
    FieldViolation,
    MessageDeleted,
    MessageNotFound,
    ModelNotAccepted,
    NotAUserMessage,
    RequestInvalid,
    ToolResultRequired,
    ToolResultUnexpected,
    TurnNotFound,
)
from metamorphd.models.content import Content, ToolResultBlock, ToolUseBlock, attachment_blocks
from metamorphd.models.generation import MEMORY_TOOL, EffectiveOptions, GenerationOptions, contradictions
from metamorphd.models.message import Message, Role
from metamorphd.models.turn import TurnError
from metamorphd.store.attachments import describe_attachments, rejected_attachments
from metamorphd.store.codec import DEFAULTS, decode_content, decode_options
from metamorphd.store.database import Transaction
from metamorphd.store.messages import get_message
from metamorphd.store.turns.read import get_turn
from metamorphd.store.turns.session_defaults import get_session_defaults
from metamorphd.store.turns.terms import Terms

GET_RUNNING = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id AND status = 'RUNNING'
    AND (:user_message_id IS NULL OR user_message_id = :user_message_id)
ORDER BY turn_id
LIMIT 1
"""
# Of a turn that ended otherwise, tool calls are for display only.
GET_BEFORE = """
SELECT turns.options, CASE
    WHEN role = 'ASSISTANT' AND turns.status = 'COMPLETED' AND turns.stop_reason = 'TOOL_USE'
    THEN CASE WHEN messages.delete_time IS NULL THEN messages.content ELSE '[]' END
END AS calls, CASE WHEN role = 'USER' THEN turns.error END AS error, parent_message_id
FROM messages JOIN turns ON turns.vault_id = :vault_id AND turns.turn_id = messages.turn_id
WHERE messages.vault_id = :vault_id AND message_id = :message_id
"""
# So many messages in a row, whose tools the provider has rejected, are looked past.
MOST_REJECTED = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How a turn is to run: what its user message follows, and what the model is asked with.

    `parent_message_id` is None for a root. `content` describes the attachments that it names. `options` are those in
    force, and name the model. `session_labels` are those of the session alone.
    """

    parent_message_id: str | None
    content: Content
    options: EffectiveOptions
    system_prompt: str
    session_labels: Mapping[str, str]


async def plan_turn(
    tx: Transaction, *, session_id: str, parent: str | None, content: Content, options: GenerationOptions, terms: Terms
) -> Plan:
    """Returns how a turn on a message of `content` would run.

    `parent`: None is the current leaf, empty a new root, otherwise a message of the session. Raises SessionNotFound,
    AttachmentNotFound, AttachmentTypeMismatch, ModelNotAccepted, MessageNotFound for the parent, BranchBusy,
    ToolResultRequired, ToolResultUnexpected, RequestInvalid for options that contradict each other, and for attachments
    that the model cannot read or that the provider has rejected.
    """
    defaults = await get_session_defaults(tx, session_id=session_id)
    named = {block.attachment_id for block in attachment_blocks(content) if not block.sha256}
    content = await describe_attachments(tx, content=content)
    await _refuse_rejected(tx, content=content, named=named)
    model = options.model or defaults.model or terms.default_model
    _refuse_model(model, terms)
    await _refuse_busy(tx, session_id=session_id, user_message_id=parent)
    if parent:
        found = await get_message(tx, message_id=parent)
        if found.session_id != session_id:
            raise MessageNotFound(message_id=parent)
    follows = defaults.leaf_message_id if parent is None else parent or None
    before = await _options_before(tx, follows=follows, content=content)
    effective = _effective(options, before, model=model, memory_tool=defaults.memory_tool, terms=terms)
    _refuse_attachments(content, model, terms)
    return Plan(follows, content, effective, defaults.system_prompt, defaults.labels)


async def plan_regeneration(tx: Transaction, *, message: Message, options: GenerationOptions, terms: Terms) -> Plan:
    """Returns how another turn on a stored message would run. Options that are absent are as in its first turn.
    One that was imported without its turns has the session's model and the defaults.

    Raises NotAUserMessage, MessageDeleted, and as `plan_turn` does.
    """
    if message.role is not Role.USER:
        raise NotAUserMessage(message_id=message.message_id)
    if message.delete_time is not None:
        raise MessageDeleted(message_id=message.message_id)
    first_model, before = await _first_options(tx, message)
    defaults = await get_session_defaults(tx, session_id=message.session_id)
    asked = first_model if options.model is None else options.model
    model = asked or defaults.model or terms.default_model
    _refuse_model(model, terms)
    await _refuse_busy(tx, session_id=message.session_id, user_message_id=message.message_id)
    effective = _effective(options, before, model=model, memory_tool=defaults.memory_tool, terms=terms)
    _refuse_attachments(message.content, model, terms)
    return Plan(message.parent_message_id, message.content, effective, defaults.system_prompt, defaults.labels)


async def _first_options(tx: Transaction, message: Message) -> tuple[str, EffectiveOptions]:
    """Returns the model and the options of a message's first turn, an empty one and the defaults if there is none."""
    try:
        first = await get_turn(tx, turn_id=message.turn_id)
    except TurnNotFound:
        return "", DEFAULTS
    return first.model, first.options


def _refuse_model(model: str, terms: Terms) -> None:
    """Raises ModelNotAccepted if the catalog lacks it."""
    if not terms.catalog.accepts(model):
        raise ModelNotAccepted(model=model)


def _effective(
    options: GenerationOptions, before: EffectiveOptions, *, model: str, memory_tool: bool, terms: Terms
) -> EffectiveOptions:
    """Returns the options in force: those of the request over those of before, which are dropped if `model`, which the
    catalog has, does not accept them.

    Raises RequestInvalid for options of the request that the model does not accept, and for contradictory ones.
    """
    effective = replace(options.over(before), model=model, memory_tool=memory_tool)
    unsupported = list(terms.catalog.model(model).capabilities.unsupported(effective))
    kept = {name: getattr(DEFAULTS, name) for name, _, _ in unsupported if getattr(options, name) is None}
    effective = replace(effective, **kept)
    faults = [(path, description) for name, path, description in unsupported if name not in kept]
    if memory_tool and any(tool.name == MEMORY_TOOL for tool in effective.tools):
        faults.append(("tools", f"has one named {MEMORY_TOOL}, as the session's memory tool is"))
    faults += contradictions(effective, output_tokens=terms.output_tokens(effective))
    if faults:
        raise RequestInvalid(
            violations=[FieldViolation(f"options.{path}", description) for path, description in faults]
        )
    return effective


def _refuse_attachments(content: Content, model: str, terms: Terms) -> None:
    """Raises RequestInvalid for images and documents that the model, which the catalog has, cannot read."""
    can = terms.catalog.model(model).capabilities
    violations = [FieldViolation(path, description) for path, description in can.unreadable(content)]
    if violations:
        raise RequestInvalid(violations=violations)


async def _refuse_rejected(tx: Transaction, *, content: Content, named: AbstractSet[str]) -> None:
    """Raises RequestInvalid for attachments that are named, not included, and that the provider has rejected."""
    rejected = await rejected_attachments(tx, attachment_ids=named)
    violations = [
        FieldViolation(f"content[{place}]", "has an attachment that the provider rejected; upload it to try it again")
        for place, block in enumerate(content)
        if any(attachment.attachment_id in rejected for attachment in attachment_blocks((block,)))
    ]
    if violations:
        raise RequestInvalid(violations=violations)


async def _refuse_busy(tx: Transaction, *, session_id: str, user_message_id: str | None) -> None:
    """Raises BranchBusy while a turn answers that message; None stands for any of the session."""
    busy = await tx.one(GET_RUNNING, session_id=session_id, user_message_id=user_message_id)
    if busy is not None:
        raise BranchBusy(turn_id=busy.turn_id)


async def _options_before(tx: Transaction, *, follows: str | None, content: Content) -> EffectiveOptions:
    """Returns what holds for `content` where its options are absent: the tools of the turn before, since thinking is
    bound to them, unless the provider has rejected them; with a tool's results also its thinking and its schema, which
    the provider wants as they were.

    Raises ToolResultRequired, ToolResultUnexpected.
    """
    results = [block.tool_use_id for block in content if isinstance(block, ToolResultBlock)]
    before = None if follows is None else await tx.one(GET_BEFORE, message_id=follows)
    if before is not None and before.calls is not None:
        _refuse_other_results(decode_content(before.calls), results)
    elif results:
        raise ToolResultUnexpected(tool_use_ids=",".join(results))
    for _ in range(MOST_REJECTED):
        if before is None or not _rejects_tools(before.error):
            break
        follows = before.parent_message_id
        before = None if follows is None else await tx.one(GET_BEFORE, message_id=follows)
    if before is None or _rejects_tools(before.error):
        return EffectiveOptions()
    options = decode_options(before.options)
    if not results:
        return EffectiveOptions(tools=options.tools)
    return EffectiveOptions(tools=options.tools, thinking=options.thinking, response_schema=options.response_schema)


def _rejects_tools(error: str | None) -> bool:
    """Returns whether a turn's stored error blames its tools."""
    return error is not None and TurnError(**orjson.loads(error)).metadata.get("field") == "options.tools"


def _refuse_other_results(reply: Content, results: Sequence[str]) -> None:
    # Those of the memory tool have theirs.
    ended = {block.tool_use_id for block in reply if isinstance(block, ToolResultBlock)}
    pending = [
        block.tool_use_id for block in reply if isinstance(block, ToolUseBlock) and block.tool_use_id not in ended
    ]
    if set(results) - set(pending):
        raise ToolResultUnexpected(tool_use_ids=",".join(result for result in results if result not in pending))
    if sorted(results) != sorted(pending):
        raise ToolResultRequired(tool_use_ids=",".join(pending))
