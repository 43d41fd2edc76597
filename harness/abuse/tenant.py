"""A tenant whose every word can be told from anybody else's."""

import itertools
import re
import secrets
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

USERS = 3
REMEMBERED = 200
# The part of an id that nobody else has.
ID = re.compile(rb"_([0-9a-f]{32})")
# Ids that name nothing that the server has made.
OWN_WORDS = frozenset({"request", "vault", "user", "token"})


def kind_of(name: str) -> str:
    """What a field of this name holds the id of, `message` for `parent_message_id`; empty where it holds none."""
    singular = name.removesuffix("s")
    return singular.removesuffix("_id").rpartition("_")[2] if singular.endswith("_id") else ""


class Tenant:
    """A vault with users, and what it has been told so far.

    All of its names hold `mark`. What it stores begins with `content`, which belongs into no log; the ids of its calls
    with `calls` and the models that it asks for with `models`, which do.
    """

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.vault = f"v{self.mark}"
        self.users = [f"u{self.mark}-{number}" for number in range(USERS)]
        self.content = f"c{self.mark}"
        self.calls = f"r{self.mark}"
        self.models = f"m{self.mark}"
        # Ids that came together, by kind; the newest are remembered.
        self.records: deque[dict[str, str]] = deque(maxlen=REMEMBERED)
        self.ids: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # What was put into a field of this name.
        self.texts: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # Requests that succeeded, by path, and those for the page after.
        self.sent: defaultdict[str, deque[Message]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # The unmistakable part of every id that it was ever told.
        self.told: set[bytes] = set()
        self._numbers = itertools.count()

    def text(self, name: str) -> str:
        """New text for a field of this name."""
        begins = self.models if name.endswith("model") else self.content
        # Its end can be seen: no text is the beginning of another.
        made = f"{begins}-{next(self._numbers)}x"
        self.texts[name].append(made)
        return made

    def call_id(self) -> str:
        """A new id for a call."""
        return f"{self.calls}-{next(self._numbers)}"

    def repeatable(self, path: str, request: Any, response: Any) -> None:
        """Remembers a request that was answered so."""
        self.sent[path].append(request)
        if getattr(response, "next_page_token", ""):
            following = type(request)()
            following.CopyFrom(request)
            following.page_token = response.next_page_token
            self.sent[path].append(following)

    def learn(self, response: Message) -> None:
        """Remembers ids, page tokens and etags of an answer."""
        for message in _messages(response):
            record: dict[str, str] = {}
            for descriptor, value in message.ListFields():
                if descriptor.type != FieldDescriptor.TYPE_STRING or descriptor.message_type is not None:
                    continue
                self._learn(descriptor.name, value, record)
            if record:
                self.records.append(record)

    def forget(self, request: Message) -> None:
        """Lets go of what the request, which deletes it, has named."""
        gone = set(strings_of(request))
        self.records = deque((one for one in self.records if gone.isdisjoint(one.values())), maxlen=REMEMBERED)
        for kind, ids in self.ids.items():
            self.ids[kind] = deque((identity for identity in ids if identity not in gone), maxlen=REMEMBERED)

    def _learn(self, name: str, value: Any, record: dict[str, str]) -> None:
        kind = kind_of(name)
        if kind and kind not in OWN_WORDS:
            for identity in [value] if isinstance(value, str) else value:
                record[kind] = identity
                self.ids[kind].append(identity)
                self.told.update(ID.findall(identity.encode()))
        elif name.endswith("page_token"):
            self.texts["page_token"].append(value)
        elif name == "etag":
            self.texts[name].append(value)

    def foreign_bytes(self, data: bytes, other: "Tenant") -> int:
        """How many bytes of `data`, which only this tenant should see, are the other's names, text or ids."""
        marks = data.count(other.mark.encode()) * len(other.mark)
        return marks + sum(len(found) for found in ID.findall(data) if found in other.told)


def strings_of(message: Message) -> Iterator[str]:
    """All text in a message."""
    for inner in _messages(message):
        for descriptor, value in inner.ListFields():
            if descriptor.type == FieldDescriptor.TYPE_STRING:
                yield from [value] if isinstance(value, str) else value
            elif descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
                yield from (text for pair in value.items() for text in pair if isinstance(text, str))


def _messages(message: Message) -> Iterator[Message]:
    """A message and all within it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        for inner in [value] if isinstance(value, Message) else value:
            yield from _messages(inner)
