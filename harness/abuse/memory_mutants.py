"""Mutants of the memory tool that a hostile model must find."""

from dataclasses import replace
from typing import Any

import orjson
from metamorphd.chat import generation
from metamorphd.memories import tool
from metamorphd.models.caller import Scope
from metamorphd.models.content import TextBlock, ToolResultBlock, ToolUseBlock

from harness.mutants import Patch, mutant

GENERATION: Any = generation
MODULE: Any = tool
TOOL: Any = tool.MemoryTool


@mutant("models-choose-the-vault", harness="hostile-model", shown_by={"sights of another vault"})
def _models_choose_the_vault(patch: Patch) -> None:
    run = TOOL.run

    async def chosen(self: Any, scope: Scope, call: ToolUseBlock, **fields: Any) -> ToolResultBlock:
        stated = orjson.loads(call.input) if b"vault_id" in call.input.encode() else {}
        other = stated.get("vault_id")
        if isinstance(other, str):
            scope = replace(scope, vault_id=other)
        result: ToolResultBlock = await run(self, scope, call, **fields)
        return result

    patch(TOOL, "run", chosen)


@mutant("rounds-have-no-end", harness="hostile-model", shown_by={"most calls of a turn"})
def _rounds_have_no_end(patch: Patch) -> None:
    patch(GENERATION, "MOST_CALLS", 10**9)


@mutant("paths-may-be-anything", harness="hostile-model", shown_by={"paths outside that were accepted"})
def _paths_may_be_anything(patch: Patch) -> None:
    patch(MODULE, "checked_path", lambda path: path)


@mutant("nonsense-ends-the-turn", harness="hostile-model", shown_by={"turns that failed"})
def _nonsense_ends_the_turn(patch: Patch) -> None:
    async def unguarded(self: Any, scope: Scope, call: ToolUseBlock, *, session_id: str) -> ToolResultBlock:
        text = await self._run(scope, MODULE.command_of(call.input), session_id=session_id)
        return ToolResultBlock(call.tool_use_id, (TextBlock(text),), False)

    patch(TOOL, "run", unguarded)


@mutant("memories-have-no-limit", harness="hostile-model", shown_by={"most memories of a vault"})
def _memories_have_no_limit(patch: Patch) -> None:
    made = TOOL.__init__

    def unlimited(self: Any, **fields: Any) -> None:
        made(self, **(fields | {"most_memories": 10**9}))

    patch(TOOL, "__init__", unlimited)
