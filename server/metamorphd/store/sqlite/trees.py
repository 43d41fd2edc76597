"""The B-trees of a database, one for each table and each index, and the statements that check a range of one.

`PRAGMA integrity_check` reads a file at once, and cannot go on where it was stopped. Here the entries of a B-tree are
read in ranges of its key, and compared with those that must correspond to them: an entry of a table with the indexes of
the table and with the rows that its foreign keys name, an entry of an index with its table.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

LIST_TABLES = """
SELECT name, wr, strict FROM pragma_table_list
WHERE schema = 'main' AND type IN ('table', 'shadow') AND name <> 'sqlite_schema' ORDER BY name
"""
LIST_COLUMNS = 'SELECT name, type, "notnull", pk FROM pragma_table_info(?) ORDER BY cid'
LIST_INDEXES = """
SELECT list.name, list.origin, entry.sql FROM pragma_index_list(?) AS list
LEFT JOIN sqlite_schema AS entry ON entry.type = 'index' AND entry.name = list.name
ORDER BY list.name
"""
LIST_KEYS = """SELECT IIF(cid = -1, 'rowid', name), "desc" FROM pragma_index_xinfo(?) ORDER BY seqno"""
LIST_PARENTS = 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq'
CONDITION = re.compile(r"\bWHERE\b(.*)", re.DOTALL | re.IGNORECASE)
# What `typeof` returns, by the type of a STRICT table's column.
TYPES = {"INT": "integer", "INTEGER": "integer", "REAL": "real", "TEXT": "text", "BLOB": "blob"}


@dataclass(frozen=True, slots=True)
class Key:
    """A column of a B-tree's key, quoted."""

    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """A B-tree.

    `source` is where its entries are read, and `condition` which rows have one. `content` is an expression that reads
    an entry to its end. `faults` are conditions by what is wrong with an entry that meets one.
    """

    name: str
    keys: tuple[Key, ...]
    source: str
    condition: str
    content: str
    faults: Mapping[str, str]

    def ranges(self, after: Sequence[Any] | None) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yields the ranges that follow a key, in order, each a condition and its values.

        First the entries that share all but the last column of the key, then all but the last two, and so on: an index
        finds each, whichever columns are descending.
        """
        if after is None:
            yield self.condition, ()
            return
        for place in reversed(range(len(self.keys))):
            shared = "".join(f" AND entry.{key.column} IS ?" for key in self.keys[:place])
            sign = "<" if self.keys[place].descending else ">"
            yield f"{self.condition}{shared} AND entry.{self.keys[place].column} {sign} ?", after[: place + 1]

    def check(self, condition: str) -> str:
        """Returns a statement that checks the first entries of a range, as many as its last parameter says.

        Its row has how many there were, their bytes, how many are not in order, and how many have each of the faults.
        """
        names = ", ".join(f"entry.{key.column} AS k{place}" for place, key in enumerate(self.keys))
        faults = "".join(f", ({fault}) AS f{place}" for place, fault in enumerate(self.faults.values()))
        entries = f"SELECT {names}, {self.content} AS bytes{faults} FROM {self._range(condition)} LIMIT ?"
        # Without an order of its own, the window has the entries as they are stored.
        previous = ", ".join(f"LAG(k{place}) OVER () AS p{place}" for place in range(len(self.keys)))
        sums = "".join(f", TOTAL(f{place})" for place in range(len(self.faults)))
        return (
            f"SELECT COUNT(*), TOTAL(bytes), TOTAL(NOT (p0 IS NULL OR {self._follows()})){sums} "
            f"FROM (SELECT *, {previous} FROM ({entries}))"
        )

    def key_at(self, condition: str) -> str:
        """Returns a statement that reads the key of the entry of a range that so many others precede."""
        keys = ", ".join(f"entry.{key.column}" for key in self.keys)
        return f"SELECT {keys} FROM {self._range(condition)} LIMIT 1 OFFSET ?"

    def _range(self, condition: str) -> str:
        order = ", ".join(f"entry.{key.column}{' DESC' * key.descending}" for key in self.keys)
        return f"{self.source} WHERE {condition} ORDER BY {order}"

    def _follows(self) -> str:
        condition = ""
        for place in reversed(range(len(self.keys))):
            later = f" OR (k{place} IS p{place} AND ({condition}))" if condition else ""
            condition = f"k{place} {'<' if self.keys[place].descending else '>'} p{place}{later}"
        return f"({condition})"


def read_trees(connection: apsw.Connection) -> list[Tree]:
    """Returns the B-trees of a database, those of a table's indexes after it."""
    trees = []
    for name, without_rowid, strict in connection.execute(LIST_TABLES).fetchall():
        trees += _trees_of(connection, str(name), without_rowid=bool(without_rowid), strict=bool(strict))
    return trees


def _trees_of(connection: apsw.Connection, name: str, *, without_rowid: bool, strict: bool) -> list[Tree]:
    table, columns = _quoted(name), connection.execute(LIST_COLUMNS, (name,)).fetchall()
    primary = [_quoted(column) for column, _, _, pk in sorted(columns, key=lambda column: column[3] or 0) if pk]
    keys = tuple(map(Key, primary)) if without_rowid else (Key("rowid"),)
    indexes = list(_indexes(connection, name, keys))
    faults = {
        "of a wrong type": _any(_mistyped(column, kind, notnull) for column, kind, notnull, _ in columns if strict),
        "missing in an index": _any(_missing(table, index) for index in indexes),
        "without the row they refer to": _any(_orphaned(connection, name)),
    }
    content = " + ".join(f"IFNULL(LENGTH(CAST(entry.{_quoted(column)} AS BLOB)), 0)" for column, *_ in columns)
    present = {about: fault for about, fault in faults.items() if fault}
    return [Tree(name, keys, f"{table} AS entry NOT INDEXED", "TRUE", content, present), *indexes]


def _indexes(connection: apsw.Connection, name: str, row: Sequence[Key]) -> Iterator[Tree]:
    table = _quoted(name)
    for index, origin, sql in connection.execute(LIST_INDEXES, (name,)).fetchall():
        keys = tuple(Key(_quoted(column), bool(desc)) for column, desc in connection.execute(LIST_KEYS, (index,)))
        if origin == "pk" and row[0].column != "rowid":
            # The table itself.
            continue
        condition = CONDITION.search(str(sql))
        # Its columns have no prefix, so they are those of the innermost table.
        where = f"({condition[1].strip()})" if condition else "TRUE"
        same = f"{where} AND {_same(row)} AND {_same(keys)}"
        stale = f"NOT EXISTS (SELECT 1 FROM {table} AS other NOT INDEXED WHERE {same})"
        yield Tree(
            name=str(index),
            keys=keys,
            source=f"{table} AS entry INDEXED BY {_quoted(index)}",
            condition=where,
            content="0",
            faults={"without a row": stale},
        )


def _missing(table: str, index: Tree) -> str:
    source = index.source.replace(" AS entry ", " AS other ")
    return f"{index.condition} AND NOT EXISTS (SELECT 1 FROM {source} WHERE {index.condition} AND {_same(index.keys)})"


def _mistyped(column: Any, kind: Any, notnull: Any) -> str:
    types = [f"'{TYPES[kind]}'"] if kind in TYPES else ["'integer'", "'real'", "'text'", "'blob'"]
    if not notnull:
        types.append("'null'")
    return f"typeof(entry.{_quoted(column)}) NOT IN ({', '.join(types)})"


def _orphaned(connection: apsw.Connection, name: str) -> Iterator[str]:
    parents: dict[Any, tuple[str, list[tuple[Any, Any]]]] = {}
    for number, parent, column, referred in connection.execute(LIST_PARENTS, (name,)).fetchall():
        parents.setdefault(number, (str(parent), []))[1].append((column, referred))
    for parent, pairs in parents.values():
        primary = [column for column, _, _, pk in connection.execute(LIST_COLUMNS, (parent,)).fetchall() if pk]
        columns = [
            (_quoted(column), _quoted(referred or primary[place])) for place, (column, referred) in enumerate(pairs)
        ]
        given = " AND ".join(f"entry.{column} IS NOT NULL" for column, _ in columns)
        same = " AND ".join(f"other.{referred} = entry.{column}" for column, referred in columns)
        yield f"{given} AND NOT EXISTS (SELECT 1 FROM {_quoted(parent)} AS other WHERE {same})"


def _same(keys: Sequence[Key]) -> str:
    return " AND ".join(f"other.{key.column} IS entry.{key.column}" for key in keys)


def _any(faults: Iterable[str]) -> str:
    return " OR ".join(f"({fault})" for fault in faults)


def _quoted(name: Any) -> str:
    return '"' + str(name).replace('"', '""') + '"' if name != "rowid" else "rowid"
