"""The usage of turns that an earlier process left."""

from dataclasses import dataclass, replace

import orjson

from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage
from metamorphd.store.budgets import most_input_tokens
from metamorphd.store.database import Transaction
from metamorphd.store.turns.session_defaults import get_session_defaults
from metamorphd.store.turns.terms import Terms

GET_REPORTED = """
SELECT text FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id AND kind = 'usage'
ORDER BY sequence DESC
LIMIT 1
"""
GET_SIZES = """
SELECT SUM(CASE WHEN kind IN ('text', 'tool_use') THEN octet_length(text) END) AS text,
    SUM(CASE WHEN kind = 'thinking' THEN octet_length(text) END) AS thinking,
    SUM(CASE WHEN kind = 'compaction' THEN octet_length(text) END) AS summary
FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id
"""


@dataclass(frozen=True, slots=True)
class LeftUsage:
    """The known usage of a turn that nobody runs: what was reported, and the most that the rest can be.

    `unreported_reads` is how often its prompt, of at most `most_input_tokens`, was read without a report.
    """

    reported: Usage
    most_output_tokens: int
    unreported_reads: int
    most_input_tokens: int


async def get_left_usage(tx: Transaction, *, turn: Turn, terms: Terms) -> LeftUsage:
    """Returns the usage of a turn, by its events. Raises SessionNotFound."""
    options = replace(turn.options, model=turn.model)
    accepted = terms.catalog.accepts(turn.model)
    row = await tx.one(GET_REPORTED, turn_id=turn.turn_id)
    (sizes,) = await tx.all(GET_SIZES, turn_id=turn.turn_id)
    received = (sizes.text or 0) + (sizes.thinking or 0)
    if accepted:
        most = terms.output_tokens(options)
        # Only text shows that thinking, which may not be shown, has ended, and nothing shows how long it was. Nor how
        # much there was of a tool call, which is stored when it is complete.
        unseen = sizes.text is None or sizes.thinking is not None or options.tools
        received = most if unseen else min(received, most)
    reported = Usage() if row is None else Usage(**orjson.loads(row.text))
    if accepted and turn.options.memory_tool:
        # Its last call, after those that were reported, and perhaps another one that had begun.
        received = reported.output_tokens + 2 * most
    read = 0
    # Without a report, or if the model was taken out of the catalog meanwhile, which leaves no limits and no prices.
    if accepted and (row is None or sizes.summary is not None or turn.options.memory_tool):
        defaults = await get_session_defaults(tx, session_id=turn.session_id)
        read = await most_input_tokens(
            tx,
            session_id=turn.session_id,
            user_message_id=turn.user_message_id,
            system_prompt=defaults.system_prompt,
            options=options,
            catalog=terms.catalog,
        )
    return LeftUsage(
        reported=reported,
        most_output_tokens=received + (sizes.summary or 0),
        unreported_reads=(row is None) + (sizes.summary is not None) + turn.options.memory_tool,
        most_input_tokens=read,
    )
