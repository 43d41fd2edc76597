"""Puts another file in the place of a database that nobody has open, with its write-ahead log, all or nothing.

A log that stayed would be copied into the new database (https://sqlite.org/howtocorrupt.html#_unlinking_or_renaming_a_
database_file_while_in_use_and_mismatching_hot_journals_). So several files are renamed, and a file beside them says
that this has begun: whoever opens the database next finishes it.
"""

import os
from pathlib import Path

import orjson

from metamorphd.durable import sync_directory

# First the log, without which the old database is still one, of an earlier moment; but never beside the new one.
MOVED = ("-wal", "-shm", "")


def copy_beside(path: Path) -> Path:
    """Returns where a file that is to take a database's place is made."""
    return Path(f"{path}-restored.part")


def abandon_copy(path: Path) -> None:
    """Deletes what is there of that file, unless it has begun to take the database's place."""
    if not _plan_of(path).exists():
        copy_beside(path).unlink(missing_ok=True)


def replace_database(path: Path, new: Path, *, aside: Path) -> None:
    """Renames a database and its log to `aside`, and `new`, which is durable, to its place. All are in one directory.

    Interrupted at any moment, the old database is there as it was, or `finish_replacement` completes it. Raises
    FileNotFoundError, and changes nothing, if `new` is missing.
    """
    plan = _plan_of(path)
    new.stat()
    with _partial(plan).open("wb") as file:
        file.write(orjson.dumps({"new": new.name, "aside": aside.name}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(_partial(plan), plan)
    sync_directory(path.parent)
    finish_replacement(path)


def finish_replacement(path: Path) -> bool:
    """Completes a replacement that was interrupted. Returns whether there was one. The database is not in use.

    If it was interrupted before it had begun, what is left of it is deleted.
    """
    plan = _plan_of(path)
    try:
        names = orjson.loads(plan.read_bytes())
    except FileNotFoundError:
        _partial(plan).unlink(missing_ok=True)
        abandon_copy(path)
        return False
    new, aside = path.with_name(names["new"]), path.with_name(names["aside"])
    # Once it is in its place, what has the old names is not the old database any more.
    if new.exists():
        for suffix in MOVED:
            old = Path(f"{path}{suffix}")
            # Once it is moved, locking the database has made an empty file in its place.
            if old.exists() and not (suffix == "" and aside.exists()):
                os.replace(old, f"{aside}{suffix}")
        # Before the new one is there: after a power failure, renames may be lost one by one.
        sync_directory(path.parent)
        os.replace(new, path)
        sync_directory(path.parent)
    plan.unlink()
    sync_directory(path.parent)
    return True


def _plan_of(path: Path) -> Path:
    return Path(f"{path}-replacing")


def _partial(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.part")
