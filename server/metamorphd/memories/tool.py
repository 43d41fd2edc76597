"""Claude's memory tool, backed by the vault of the turn: https://platform.claude.com/docs/en/agents-and-tools/tool-use/memory-tool.

Its results are those of the tool in the provider's SDK.
"""

from typing import Any

import orjson
import structlog

from metamorphd.clock import Clock
from metamorphd.errors import DomainError
from metamorphd.models.caller import Scope
from metamorphd.models.content import TextBlock, ToolResultBlock, ToolUseBlock
from metamorphd.models.memory_file import (
    Command,
    Create,
    Delete,
    Insert,
    MemoryFileError,
    Rename,
    StrReplace,
    View,
    checked_path,
)
from metamorphd.store.database import Database
from metamorphd.store.memories.files import change_memory_files, view_memory_file

# The permissions of the user that commands take, beside those that take `write`. The result of a replacement shows the
# lines around it.
NEEDED: dict[type[Command], tuple[str, ...]] = {View: ("read",), StrReplace: ("read", "write"), Delete: ("delete",)}

logger = structlog.get_logger(__name__)


class MemoryTool:
    """Runs the model's calls of the tool for a scope, whose vault it never leaves."""

    def __init__(self, *, database: Database, clock: Clock, most_memories: int, storage_limit: int) -> None:
        self._database = database
        self._clock = clock
        self._most_memories = most_memories
        self._storage_limit = storage_limit

    async def run(self, scope: Scope, call: ToolUseBlock, *, session_id: str) -> ToolResultBlock:
        """Returns the result of a call, which says so where it failed. Nothing that the model writes raises."""
        try:
            text, failed = await self._run(scope, command_of(call.input), session_id=session_id), False
        except MemoryFileError as error:
            text, failed = f"Error: {error}", True
        except DomainError as error:
            logger.info("a call of the memory tool was refused", reason=error.reason_name(), vaultId=scope.vault_id)
            text, failed = f"Error: {error}", True
        return ToolResultBlock(call.tool_use_id, (TextBlock(text),), failed)

    async def _run(self, scope: Scope, command: Command, *, session_id: str) -> str:
        for permission in NEEDED.get(type(command), ("write",)):
            if permission not in scope.actor.permissions:
                raise MemoryFileError(f"the user has no permission to {permission} memories")
        if isinstance(command, View):
            return await self._database.read(view_memory_file, scope, command=command, now=self._clock.now())
        return await self._database.write(
            change_memory_files,
            scope,
            command=command,
            memory_id=self._clock.new_id("mem"),
            session_id=session_id,
            hash_key=self._clock.new_key(),
            most_memories=self._most_memories,
            storage_limit=self._storage_limit,
            now=self._clock.now(),
        )


def command_of(written: str) -> Command:
    """Returns the command of a call's input, JSON that the model wrote. Raises MemoryFileError."""
    try:
        fields = orjson.loads(written)
        command = fields["command"]
        match command:
            case "view":
                first, last = fields.get("view_range") or (1, -1)
                return View(checked_path(_text(fields, "path")), _integer(first), _integer(last))
            case "create":
                return Create(checked_path(_text(fields, "path")), _text(fields, "file_text"))
            case "str_replace":
                old, new = _text(fields, "old_str"), _text(fields, "new_str")
                return StrReplace(checked_path(_text(fields, "path")), old, new)
            case "insert":
                line, text = _integer(fields["insert_line"]), _text(fields, "insert_text")
                return Insert(checked_path(_text(fields, "path")), line, text)
            case "delete":
                return Delete(checked_path(_text(fields, "path")))
            case "rename":
                old_path, new_path = (checked_path(_text(fields, name)) for name in ("old_path", "new_path"))
                return Rename(old_path, new_path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MemoryFileError("the input is not one of the memory tool") from error
    raise MemoryFileError(f"Unknown command: {str(command)[:64]}")


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _integer(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("not an integer")
    return value
