"""Makes steps of the records of an export: what each stores, ready to be stored.

Encoding rows and finding words takes longer than to store them, so it is done before, and without the database.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metamorphd.models.imports import Imported, Line, Refused
from metamorphd.store.search.postings import BLOCK_BITS, FOLDING, first_words, hasher, packed, split
from metamorphd.store.staged_rows import (
    Placed,
    Row,
    Step,
    json_rows,
    message_row,
    session_row,
    staged_record,
    turn_row,
    uses_of,
)
from metamorphd.store.staging import STAGED

# The most that a step stages, but one record whole.
STEP_RECORDS, STEP_BYTES = 64, 96 * 1024
# A message or a turn of more has a step of its own.
LARGE_BYTES = 32 * 1024
# Words of messages are held until so many different ones are known, or the block of the index is full, and are then
# stored in so many steps.
HELD_TERMS, PARTS = 16_384, 32
OF_SESSION = ("message", "turn")
# Values are encrypted for somebody else, and a secret without a value is none.
LEFT_OUT = ("secret", "secret_version", "")


@dataclass(frozen=True, slots=True)
class Lists:
    """Messages of words in a block of the index, as `add_lists` takes them."""

    block: int
    lists: str


class Words:
    """The words of messages, by block of the index, until they are stored."""

    def __init__(self, hash_key: bytes) -> None:
        self._term = hasher(hash_key)
        self._block = 0
        self._offsets: dict[str, bytearray] = {}
        # The same by term, in parts of neighbours, which are stored together.
        self._parts: list[list[tuple[bytes, bytearray]]] = [[] for _ in range(PARTS)]

    def takes(self, number: int) -> bool:
        """Returns whether a message can be added before all that is held is stored."""
        full = len(self._offsets) >= HELD_TERMS
        return not self._offsets or (split(number, BLOCK_BITS)[0] == self._block and not full)

    def add(self, number: int, words: Sequence[str]) -> None:
        """Adds a message."""
        self._block, offset = split(number, BLOCK_BITS)
        place, known = packed(offset), self._offsets
        for word in words:
            offsets = known.get(word)
            if offsets is None:
                offsets = known[word] = bytearray()
                term = self._term(word)
                self._parts[term[0] * PARTS >> 8].append((term, offsets))
            offsets += place

    def taken(self) -> Iterator[Lists]:
        """Yields all that is held, and forgets it."""
        for part in self._parts:
            if part:
                lists = [(term.hex(), offsets.hex()) for term, offsets in sorted(part)]
                yield Lists(self._block, json_rows(lists))
        self._offsets, self._parts = {}, [[] for _ in range(PARTS)]


class Planning:
    """Makes steps of records in their order, but of attachments. `known` finds out which sessions the vault has."""

    def __init__(self, hash_key: bytes) -> None:
        self.imported = Imported()
        """Counts what was stored as rows, and what was left out, once all steps are done."""
        self.numbers = deque[int]()
        """The numbers of messages in the index, of which there must be enough."""
        self._words = Words(hash_key)
        self._building = _Building()
        # The session whose messages follow, whether the vault has it already, and how many messages there were.
        self._session_id, self._known, self._ordinal = "", False, 0

    def steps(self, line: Line, known: Mapping[str, int | None]) -> Iterator[Step | Lists]:
        """Yields the steps that a record completes. `known` are sessions that the vault has. Raises Refused."""
        if line.kind in LEFT_OUT or (line.kind in OF_SESSION and self._known):
            self.imported.count(line.kind or "unknown", stored=False)
            return
        if not self._building.fits(line):
            yield from self._built()
        if line.kind == "session":
            self._session(line, known)
        elif line.kind == "message":
            yield from self._message(line)
        elif line.kind == "turn":
            self._turn(line)
        else:
            self._building.record(line)

    def rest(self) -> Iterator[Step | Lists]:
        """Yields the steps of all that is held."""
        yield from self._built()
        yield from self._words.taken()

    def wants_numbers(self, lines: Sequence[Line], known: Mapping[str, int | None]) -> int:
        """Returns how many numbers `steps` needs at most."""
        messages, new = 0, not self._known
        for line in lines:
            if line.kind == "session":
                new = line.record["session_id"] not in known
            messages += new and line.kind == "message"
        return messages

    def _built(self) -> Iterator[Step]:
        if self._building.size:
            yield self._building.step()
            self._building = _Building()

    def _session(self, line: Line, known: Mapping[str, int | None]) -> None:
        self._session_id, self._ordinal = line.record["session_id"], 0
        self._known = self._session_id in known
        self.imported.count("session", stored=not self._known)
        if not self._known:
            self._building.session(line)
        elif known[self._session_id] == STAGED:
            raise Refused(line.number, "id_taken", "there is another session with this ID")
        elif known[self._session_id] is not None:
            raise Refused(line.number, "being_erased", "the session was deleted, and is being erased; try again later")

    def _message(self, line: Line) -> Iterator[Step | Lists]:
        self._require_session(line)
        self._ordinal += 1
        text = self._building.message(line, self._ordinal)
        first = first_words(self._session_id, text)
        if first is None:
            return
        number = self.numbers.popleft()
        self._building.indexed.append((number, line.record["message_id"], len(first.words), first.pending, FOLDING))
        if not self._words.takes(number):
            # After the messages that they are of: what is discarded is removed by those.
            yield from self.rest()
        self._words.add(number, first.words)

    def _turn(self, line: Line) -> None:
        self._require_session(line)
        self._building.turn(line)

    def _require_session(self, line: Line) -> None:
        if line.record["session_id"] != self._session_id:
            raise Refused(line.number, "order", f"the {line.kind} does not follow its session")
        self.imported.count(line.kind, stored=True)


class _Building:
    """A step that is being made."""

    def __init__(self) -> None:
        self.size = self._records = 0
        self.indexed: list[object] = []
        self._large: str | None = None
        self._lines: dict[tuple[str, str], int] = {}
        self._placed: list[Placed] = []
        self._references: list[tuple[int, str, str, str]] = []
        self._sessions: list[Row] = []
        self._messages: list[Row] = []
        self._leaves: dict[str, tuple[int, str, int]] = {}
        self._uses: list[object] = []
        self._turns: list[Row] = []
        self._others: list[Row] = []

    def fits(self, line: Line) -> bool:
        """Returns whether a record may be added."""
        if line.size > LARGE_BYTES or self._large is not None:
            return not self.size
        return not self.size or (self._records < STEP_RECORDS and self.size + line.size <= STEP_BYTES)

    def session(self, line: Line) -> None:
        """Adds a session."""
        self._new(line, line.record["session_id"])
        self._sessions.append(session_row(line.record))
        self._others.append(staged_record(line))

    def message(self, line: Line, ordinal: int) -> str:
        """Adds a message, and returns its text."""
        record = line.record
        self._new(line, record["message_id"])
        row, place, text = message_row(line, ordinal)
        self._messages.append(self._without_large(line, row, "content"))
        self._placed.append(place)
        self._leaves[record["session_id"]] = (ordinal, record["message_id"], record["create_time"])
        self._uses += uses_of(record)
        return text

    def turn(self, line: Line) -> None:
        """Adds a turn."""
        record = line.record
        self._new(line, record["turn_id"])
        self._turns.append(self._without_large(line, turn_row(record), "options"))
        for field in ("user_message_id", "reply_message_id"):
            if record[field] is not None:
                self._references.append((line.number, field, record[field], record["session_id"]))

    def record(self, line: Line) -> None:
        """Adds a record that waits until the import is complete."""
        self._count(line)
        self._others.append(staged_record(line))

    def _without_large(self, line: Line, row: Row, column: str) -> Row:
        if line.size <= LARGE_BYTES:
            return row
        self._large = row[column]
        return {**row, column: None}

    def step(self) -> Step:
        """Returns it."""
        return Step(
            size=self.size,
            lines=self._lines,
            placed=self._placed,
            references=self._references,
            large=self._large,
            sessions=json_rows(self._sessions),
            messages=json_rows(self._messages),
            leaves=json_rows(self._leaves),
            indexed=json_rows(self.indexed),
            uses=json_rows(self._uses),
            turns=json_rows(self._turns),
            records=json_rows(self._others),
        )

    def _new(self, line: Line, id_: str) -> None:
        if (line.kind, id_) in self._lines:
            raise Refused(line.number, "id_taken", f"there is another {line.kind} with this ID")
        self._lines[line.kind, id_] = line.number
        self._count(line)

    def _count(self, line: Line) -> None:
        self._records += 1
        self.size += line.size
