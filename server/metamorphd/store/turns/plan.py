"""What a message follows, and how it is to be answered, before anything is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metamorphd.catalog import Catalog
from metamorphd.errors import (
    BranchBusy,
    MessageNotFound,
    ModelNotAccepted,
    SessionNotFound,
    ToolResultRequired,
    ToolResultUnexpected,
)
from metamorphd.models.content import Content, ToolResultBlock, ToolUseBlock
from metamorphd.models.generation import Options
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

    A call that reads more than `compact_above` tokens comes after one that summarises; 0: none does.
    """

    catalog: Catalog
    default_model: str
    max_output_tokens: int
    max_running_turns: int
    compact_above: int

    def output_tokens(self, options: Options) -> int:
        """The most that a reply may have; `options` name the model."""
        cap = min(self.max_output_tokens, self.catalog.model(options.model).max_output_tokens)
        return min(options.max_output_tokens or cap, cap)


@dataclass(frozen=True, slots=True)
class Plan:
    """`parent_message_id` is None for a root; `content` says all of the attachments that it names; `options` are those
    that will be in force, and name the model."""

    parent_message_id: str | None
    content: Content
    options: Options


async def plan_turn(
    tx: Transaction, *, session_id: str, parent: str | None, content: Content, options: Options, terms: Terms
) -> Plan:
    """What a message of `content` would follow, and how it would be answered.

    `parent`: None is the current leaf, empty a new root, otherwise a message of the session. An empty model is the
    session's, then the vault's, then the server's. Raises SessionNotFound, AttachmentNotFound, AttachmentTypeMismatch,
    ModelNotAccepted, MessageNotFound for the parent, BranchBusy, ToolResultRequired, ToolResultUnexpected.
    """
    settings = await tx.one(GET_SETTINGS, session_id=session_id)
    if settings is None:
        raise SessionNotFound(session_id=session_id)
    content = await describe_attachments(tx, content=content)
    session_model, vault_model, leaf = settings
    options = replace(options, model=options.model or session_model or vault_model or terms.default_model)
    refuse_model(options.model, terms)
    await refuse_busy(tx, session_id=session_id, user_message_id=parent)
    if parent:
        found = await get_message(tx, message_id=parent)
        if found.session_id != session_id:
            raise MessageNotFound(message_id=parent)
    follows = leaf if parent is None else parent or None
    asked = None if follows is None else await tx.one(GET_PENDING, message_id=follows)
    results = [block.tool_use_id for block in content if isinstance(block, ToolResultBlock)]
    if asked is None:
        if results:
            raise ToolResultUnexpected(tool_use_ids=",".join(results))
    else:
        _refuse_other_results(decode_content(asked[0]), results)
        if results:
            options = _continued(options, decode_options(asked[1]))
    return Plan(follows, content, options)


def refuse_model(model: str, terms: Terms) -> None:
    """Raises ModelNotAccepted for one that the catalog lacks."""
    if not terms.catalog.accepts(model):
        raise ModelNotAccepted(model=model)


async def refuse_busy(tx: Transaction, *, session_id: str, user_message_id: str | None) -> None:
    """Raises BranchBusy while a turn answers that message; None stands for any of the session."""
    busy = await tx.one(GET_RUNNING, session_id=session_id, user_message_id=user_message_id)
    if busy is not None:
        raise BranchBusy(turn_id=busy[0])


def _refuse_other_results(reply: Content, results: Sequence[str]) -> None:
    pending = [block.tool_use_id for block in reply if isinstance(block, ToolUseBlock)]
    if set(results) - set(pending):
        raise ToolResultUnexpected(tool_use_ids=",".join(result for result in results if result not in pending))
    if sorted(results) != sorted(pending):
        raise ToolResultRequired(tool_use_ids=",".join(pending))


def _continued(options: Options, before: Options) -> Options:
    """With what a tool's results are read: the provider wants the tools, and thinking, as they were."""
    return replace(
        options,
        tools=options.tools or before.tools,
        thinking=options.thinking or before.thinking,
        response_schema=options.response_schema or before.response_schema,
    )
