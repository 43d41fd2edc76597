"""Files of Claude's memory tool, which are memories with a path: commands, and their results for the model."""

import re
from dataclasses import dataclass

ROOT = "/memories"
LONGEST_PATH = 256
MOST_CHARACTERS = 8_192
# A control character, or a segment that is none.
_BAD = re.compile(r"[\x00-\x1f\x7f\\]|%2e|//|/\.{1,2}(/|$)", re.IGNORECASE)


class MemoryFileError(Exception):
    """Why a command of the memory tool failed, for the model to read."""


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A file, by the memory that it is."""

    memory_id: str
    path: str
    content: str


@dataclass(frozen=True, slots=True)
class View:
    """Shows a file, or of it only the lines from `first` to `last` (-1 is the end), or lists a directory."""

    path: str
    first: int = 1
    last: int = -1


@dataclass(frozen=True, slots=True)
class Create:
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class StrReplace:
    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Inserts text after a line, 0 for the beginning."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Delete:
    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    path: str
    new_path: str


Command = View | Create | StrReplace | Insert | Delete | Rename


def checked_path(path: str) -> str:
    """Returns a path below ROOT without a slash at its end, or ROOT. Raises MemoryFileError for all others."""
    path = path.rstrip("/")
    if path != ROOT and not path.startswith(ROOT + "/"):
        raise MemoryFileError(f"Path must start with {ROOT}, got: {path[:LONGEST_PATH]}")
    if len(path) > LONGEST_PATH or _BAD.search(path):
        raise MemoryFileError(f"Path {path[:LONGEST_PATH]} is not valid")
    return path


def is_file_path(path: str) -> bool:
    """Returns whether a file can have a path, as `checked_path` returns it."""
    try:
        return path != ROOT and checked_path(path) == path
    except MemoryFileError:
        return False


def shown(file: MemoryFile, view: View) -> str:
    """Returns a file's lines with their numbers."""
    lines = file.content.split("\n")
    first = max(1, view.first)
    chosen = lines[first - 1 :] if view.last == -1 else lines[first - 1 : view.last]
    return f"Here's the content of {file.path} with line numbers:\n" + _numbered(chosen, first)


def replaced(file: MemoryFile, command: StrReplace) -> tuple[str, str]:
    """Returns a file's new content, and the result for the model. Raises MemoryFileError unless it occurs once."""
    count = file.content.count(command.old) if command.old else 0
    if count == 0:
        raise MemoryFileError(
            f"No replacement was performed, old_str `{command.old}` did not appear verbatim in {file.path}."
        )
    if count > 1:
        places = [found.start() for found in re.finditer(re.escape(command.old), file.content)]
        lines = ", ".join(str(file.content[:place].count("\n") + 1) for place in places)
        raise MemoryFileError(
            f"No replacement was performed. Multiple occurrences of old_str `{command.old}` in lines: {lines}. "
            "Please ensure it is unique"
        )
    line = file.content[: file.content.find(command.old)].count("\n")
    content = _fitting(file.path, file.content.replace(command.old, command.new))
    first = max(0, line - 2)
    snippet = _numbered(content.split("\n")[first : line + 3], first + 1)
    result = "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n" + snippet
    return content, result


def inserted(file: MemoryFile, command: Insert) -> tuple[str, str]:
    """Returns a file's new content, and the result for the model. Raises MemoryFileError for no such line."""
    lines = file.content.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not 0 <= command.line <= len(lines):
        raise MemoryFileError(
            f"Invalid `insert_line` parameter: {command.line}. It should be within the range [0, {len(lines)}]."
        )
    lines.insert(command.line, command.text.rstrip("\n"))
    return _fitting(file.path, "\n".join(lines) + "\n"), f"The file {file.path} has been edited."


def created(command: Create) -> str:
    """Returns the content of a new file. Raises MemoryFileError if it is too long."""
    return _fitting(command.path, command.text)


def _fitting(path: str, content: str) -> str:
    if len(content) > MOST_CHARACTERS:
        raise MemoryFileError(
            f"The file {path} would have {len(content)} characters, and may have at most {MOST_CHARACTERS}. "
            "Shorten it, or use several files."
        )
    return content


def _numbered(lines: list[str], first: int) -> str:
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(lines, first))
