"""Between the calls of a turn: tools that the server runs, and budgets."""

from metamorphd.clock import Clock
from metamorphd.memories.tool import MemoryTool
from metamorphd.models.caller import Scope
from metamorphd.models.content import ToolResultBlock, ToolUseBlock
from metamorphd.models.generation import MEMORY_TOOL
from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage
from metamorphd.store.database import Database
from metamorphd.store.turns.further import admit_call

# Calls to the model in a turn. With the results of the last one's tools, the turn pauses.
MOST_CALLS = 16


class Rounds:
    """The rounds of one turn. A turn without the memory tool has one."""

    def __init__(self, *, database: Database, clock: Clock, tool: MemoryTool, scope: Scope, turn: Turn) -> None:
        self._database = database
        self._clock = clock
        self._tool = tool
        self._scope = scope
        self._turn = turn
        self.tools = turn.options.memory_tool

    def runs(self, call: ToolUseBlock) -> bool:
        """Returns whether the server runs a call itself."""
        return self.tools and call.name == MEMORY_TOOL

    async def run(self, call: ToolUseBlock) -> ToolResultBlock:
        """Runs a call, and returns its result."""
        return await self._tool.run(self._scope, call, session_id=self._turn.session_id)

    async def admit(self, *, used: Usage, most: tuple[int, int]) -> None:
        """Reserves `most`, (tokens, cost), for a further call. Raises BudgetExceeded, TurnNotFound."""
        tokens = used.input_tokens + used.output_tokens + used.cache_read_tokens + used.cache_write_tokens
        await self._database.write(
            admit_call,
            self._scope,
            turn_id=self._turn.turn_id,
            user_id=self._turn.creator,
            labels=self._turn.labels,
            used=(tokens, used.cost_usd_nanos),
            most=most,
            now=self._clock.now(),
        )
