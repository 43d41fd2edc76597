"""A tenant whose every word is distinguishable from anybody else's."""

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
# The unique part of an id.
ID = re.compile(rb"_([0-9a-f]{32})")
# Ids that the server did not create.
OWN_WORDS = frozenset({"request", "vault", "user", "token"})


def kind_of(name: str) -> str:
    """The kind of id in a field of this name, such as `message` for `parent_message_id`; empty if it holds none."""
    singular = name.removesuffix("s")
    return singular.removesuffix("_id").rpartition("_")[2] if singular.endswith("_id") else ""


class Tenant:
    """A vault with users, and what it has received so far.

    All of its names contain `mark`. What it stores begins with `content`, which must not be logged; its call ids begin
    with `calls` and its models with `models`, which may be.
    """

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.vault = f"v{self.mark}"
        self.users = [f"u{self.mark}-{number}" for number in range(USERS)]
        self.content = f"c{self.mark}"
        self.calls = f"r{self.mark}"
        self.models = f"m{self.mark}"
        # Ids that were received together, by kind; the newest are kept.
        self.records: deque[dict[str, str]] = deque(maxlen=REMEMBERED)
        self.ids: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # Values that were sent in a field of this name.
        self.texts: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # Requests that succeeded, by path, and those for the next page.
        self.sent: defaultdict[str, deque[Message]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # The unique part of every id that it received.
        self.received: set[bytes] = set()
        self._numbers = itertools.count()

    def text(self, name: str) -> str:
        """Returns new text for a field of this name."""
        begins = self.models if name.endswith("model") else self.content
        # Ends with a separator, so that no text is a prefix of another.
        made = f"{begins}-{next(self._numbers)}x"
        self.texts[name].append(made)
        return made

    def call_id(self) -> str:
        """Returns a new id for a call."""
        return f"{self.calls}-{next(self._numbers)}"

    def repeatable(self, path: str, request: Any, response: Any) -> None:
        """Remembers a request and its answer."""
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
        """Forgets what a deletion named."""
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
                self.received.update(ID.findall(identity.encode()))
        elif name.endswith("page_token"):
            self.texts["page_token"].append(value)
        elif name == "etag":
            self.texts[name].append(value)

    def foreign_bytes(self, data: bytes, other: "Tenant") -> int:
        """Counts the bytes of `data`, which only this tenant should see, that are the other's names, text or ids."""
        marks = data.count(other.mark.encode()) * len(other.mark)
        return marks + sum(len(found) for found in ID.findall(data) if found in other.received)


def strings_of(message: Message) -> Iterator[str]:
    """Returns all text in a message."""
    for inner in _messages(message):
        for descriptor, value in inner.ListFields():
            if descriptor.type == FieldDescriptor.TYPE_STRING:
                yield from [value] if isinstance(value, str) else value
            elif descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
                yield from (text for pair in value.items() for text in pair if isinstance(text, str))


def _messages(message: Message) -> Iterator[Message]:
    """Returns a message and all messages in it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        for inner in [value] if isinstance(value, Message) else value:
            yield from _messages(inner)
