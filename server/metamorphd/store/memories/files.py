"""Memories as the files of Claude's memory tool: those with a path."""

import orjson

from metamorphd.models.change import ChangeVerb
from metamorphd.models.memory import MemoryChanges, MemoryType, NewMemory
from metamorphd.models.memory_file import (
    ROOT,
    Create,
    Delete,
    Insert,
    MemoryFile,
    MemoryFileError,
    Rename,
    StrReplace,
    View,
    checked_path,
    created,
    inserted,
    replaced,
    shown,
)
from metamorphd.store.database import Row, Transaction, grows
from metamorphd.store.memories.change import update_memory
from metamorphd.store.memories.create import append_memory_change, create_memory, hide_memory, key_of

GET_FILE = """
SELECT memory_id, path, type, content FROM memories
WHERE vault_id = :vault_id AND path = :path AND (expire_time IS NULL OR expire_time > :now)
"""
FIND_EXPIRED = "SELECT memory_id FROM memories WHERE vault_id = :vault_id AND path = :path AND expire_time <= :now"
FIND_FILE_ABOVE = """
SELECT path FROM memories
WHERE vault_id = :vault_id AND path IN (SELECT value FROM json_each(:paths))
    AND (expire_time IS NULL OR expire_time > :now)
LIMIT 1
"""
# '0' follows '/'.
LIST_FILES = """
SELECT memory_id, path, size FROM memories
WHERE vault_id = :vault_id AND path > :path || '/' AND path < :path || '0'
    AND (expire_time IS NULL OR expire_time > :now)
ORDER BY path
LIMIT :limit
"""
GET_TYPE = "SELECT type, content FROM memories WHERE vault_id = :vault_id AND memory_id = :memory_id"
RENAME_FILE = """
UPDATE memories SET path = :path, content_key = :content_key, size = size + :added, update_time = :now,
    revision = revision + 1
WHERE vault_id = :vault_id AND memory_id = :memory_id
"""
# A directory with more is shown in part, and deleted and renamed one by one: each takes the writer a fraction of a ms.
MOST_LISTED, MOST_CHANGED = 500, 20


async def view_memory_file(tx: Transaction, *, command: View, now: int) -> str:
    """Returns a file, or a list of a directory up to two levels deep, for the model. Raises MemoryFileError.

    What has expired is not there.
    """
    file = await _find(tx, command.path, now=now)
    if file is not None:
        return shown(_file(file), command)
    found = await tx.all(LIST_FILES, path=command.path, limit=MOST_LISTED, now=now)
    if not found and command.path != ROOT:
        raise _missing(command.path)
    entries: dict[str, int] = {}
    for row in found:
        first, _, rest = row.path.removeprefix(command.path + "/").partition("/")
        names = [first] if not rest else [f"{first}/", *_second(first, rest)]
        for name in names:
            entries[name] = entries.get(name, 0) + row.size
    lines = [f"{sum(row.size for row in found)}\t{command.path}"]
    lines += [f"{size}\t{command.path}/{name}" for name, size in sorted(entries.items()) if not name.startswith(".")]
    return (
        f"Here're the files and directories up to 2 levels deep in {command.path}, excluding hidden items:\n"
        + "\n".join(lines)
    )


def _second(first: str, rest: str) -> list[str]:
    second, _, deeper = rest.partition("/")
    return [f"{first}/{second}/" if deeper else f"{first}/{second}"]


@grows
async def change_memory_files(
    tx: Transaction,
    *,
    command: Create | StrReplace | Insert | Delete | Rename,
    memory_id: str,
    session_id: str,
    hash_key: bytes,
    most_memories: int,
    storage_limit: int,
    now: int,
) -> str:
    """Runs a command that changes files, and returns its result for the model. A new file has the ID `memory_id`.

    Raises MemoryFileError, and what `create_memory` and `update_memory` do.
    """
    match command:
        case Create():
            if await _is_taken(tx, command.path, now=now):
                raise MemoryFileError(f"File {command.path} already exists")
            await _require_no_file_above(tx, command.path, now=now)
            await _free(tx, command.path, now=now)
            await create_memory(
                tx,
                memory=NewMemory(
                    MemoryType.SEMANTIC, created(command), session_id=session_id, path=_below_root(command.path)
                ),
                memory_id=memory_id,
                supersedes=(),
                request=None,
                hash_key=hash_key,
                most_memories=most_memories,
                storage_limit=storage_limit,
                now=now,
            )
            return f"File created successfully at: {command.path}"
        case StrReplace() | Insert():
            file = _file(await _require(tx, command.path, now=now))
            content, result = replaced(file, command) if isinstance(command, StrReplace) else inserted(file, command)
            await update_memory(
                tx,
                memory_id=file.memory_id,
                changes=MemoryChanges(content=content),
                etag="",
                storage_limit=storage_limit,
                now=now,
            )
            return result
        case Delete():
            for memory_id_, _ in await _files(tx, _below_root(command.path), now=now):
                await hide_memory(tx, memory_id=memory_id_, now=now)
            return f"Successfully deleted {command.path}"
        case Rename():
            return await _rename(tx, command, now=now)


async def _rename(tx: Transaction, command: Rename, *, now: int) -> str:
    files = await _files(tx, _below_root(command.path), now=now)
    if command.new_path == ROOT or await _is_taken(tx, command.new_path, now=now):
        raise MemoryFileError(f"The destination {command.new_path} already exists")
    if command.new_path.startswith(command.path + "/"):
        raise MemoryFileError(f"{command.path} cannot be moved into itself")
    await _require_no_file_above(tx, command.new_path, now=now)
    for memory_id, path in files:
        new_path = checked_path(command.new_path + path.removeprefix(command.path))
        await _free(tx, new_path, now=now)
        row = await tx.one(GET_TYPE, memory_id=memory_id)
        if row is None:
            raise RuntimeError("a memory of the same snapshot is missing")
        key = await key_of(tx, NewMemory(MemoryType(row.type), row.content, path=new_path))
        added = len(new_path.encode()) - len(path.encode())
        await tx.run(RENAME_FILE, memory_id=memory_id, path=new_path, content_key=key, added=added, now=now)
        await append_memory_change(tx, memory_id=memory_id, verb=ChangeVerb.UPDATED, now=now)
    return f"Successfully renamed {command.path} to {command.new_path}"


async def _find(tx: Transaction, path: str, *, now: int) -> Row | None:
    return await tx.one(GET_FILE, path=path, now=now)


async def _is_taken(tx: Transaction, path: str, *, now: int) -> bool:
    """Returns whether there is a file or a directory."""
    found = await _find(tx, path, now=now) or await tx.one(LIST_FILES, path=path, limit=1, now=now)
    return found is not None


async def _free(tx: Transaction, path: str, *, now: int) -> None:
    """Has a file that has expired give up its path."""
    expired = await tx.one(FIND_EXPIRED, path=path, now=now)
    if expired is not None:
        await hide_memory(tx, memory_id=expired.memory_id, now=now)


async def _require_no_file_above(tx: Transaction, path: str, *, now: int) -> None:
    names = path.split("/")
    paths = ["/".join(names[:count]) for count in range(3, len(names))]
    above = await tx.one(FIND_FILE_ABOVE, paths=orjson.dumps(paths).decode(), now=now) if paths else None
    if above is not None:
        raise MemoryFileError(f"{above.path} is a file, not a directory")


async def _require(tx: Transaction, path: str, *, now: int) -> Row:
    row = await _find(tx, path, now=now)
    if row is None:
        raise _missing(path)
    return row


async def _files(tx: Transaction, path: str, *, now: int) -> list[tuple[str, str]]:
    """Returns ID and path of a file, or of those in a directory. Raises MemoryFileError if they are none or many."""
    file = await _find(tx, path, now=now)
    if file is not None:
        return [(file.memory_id, file.path)]
    found = await tx.all(LIST_FILES, path=path, limit=MOST_CHANGED + 1, now=now)
    if not found:
        raise MemoryFileError(f"The path {path} does not exist")
    if len(found) > MOST_CHANGED:
        raise MemoryFileError(f"The directory {path} has more than {MOST_CHANGED} files: do it one by one")
    return [(row.memory_id, row.path) for row in found]


def _below_root(path: str) -> str:
    if path == ROOT:
        raise MemoryFileError(f"{ROOT} itself cannot be created, renamed or deleted")
    return path


def _missing(path: str) -> MemoryFileError:
    return MemoryFileError(f"The path {path} does not exist. Please provide a valid path.")


def _file(row: Row) -> MemoryFile:
    return MemoryFile(row.memory_id, row.path, row.content)
