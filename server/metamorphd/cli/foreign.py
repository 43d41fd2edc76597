"""Reads the exports of other systems, a conversation at a time.

The formats are those that the systems write: ChatGPT's `conversations.json` in a zip file, LibreChat's JSON of a
conversation, open-webui's JSON of all chats.
"""

import base64
import binascii
import io
import json
import re
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

READ_CHARACTERS = 1_048_576
LARGEST_IMAGE = 10 * 1024 * 1024 // 4 * 3
NO_PARENT = "00000000-0000-0000-0000-000000000000"
CONVERSATIONS = re.compile(r"(.*/)?conversations(-[0-9]+)?\.json")
# A model's thinking, and what its tools did, which open-webui shows within the text.
DETAILS = re.compile(r"<details\b[^>]*>.*?</details>", re.DOTALL)
DATA_URL = re.compile(r"data:image/[a-z]+;base64,(.*)", re.DOTALL)

Object = Mapping[str, Any]
# Takes the kind of something that cannot be taken along.
Lose = Callable[[str], None]


class Unreadable(Exception):
    """A file is not an export of the system that it is said to be of. The message says why."""


@dataclass(frozen=True, slots=True)
class Node:
    """A message. `images` are their bytes. One without text and images is only there for its place."""

    node_id: str
    parent_id: str | None
    role: str
    text: str
    model: str
    create_time: int | None
    images: tuple[bytes, ...] = ()

    @property
    def empty(self) -> bool:
        """Returns whether there is nothing to take along."""
        return self.role not in ("USER", "ASSISTANT") or not (self.text.strip() or self.images)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. `current_id` is the message that was shown last, empty if that is unknown."""

    conversation_id: str
    title: str
    create_time: int | None
    update_time: int | None
    current_id: str
    nodes: Mapping[str, Node]
    archived: bool = False
    system_prompt: str = ""
    model: str = ""


@dataclass
class Foreign(ABC):
    """An export of another system. `lost` counts what it has and cannot be taken along."""

    path: Path
    lost: Counter[str] = field(default_factory=Counter)

    @abstractmethod
    def conversations(self) -> Iterator[Conversation]:
        """Yields the conversations. Raises Unreadable."""

    def lose(self, what: str) -> None:
        """Counts something that cannot be taken along."""
        self.lost[what] += 1


class ChatGpt(Foreign):
    """ChatGPT's export: a zip file, or the conversations.json in it."""

    def conversations(self) -> Iterator[Conversation]:
        if not zipfile.is_zipfile(self.path):
            with open(self.path, encoding="utf-8") as file:
                yield from self._converted(file, None)
            return
        with zipfile.ZipFile(self.path) as archive:
            names = sorted(name for name in archive.namelist() if CONVERSATIONS.fullmatch(name))
            if not names:
                raise Unreadable("the zip file has no conversations.json")
            for name in names:
                with archive.open(name) as member, io.TextIOWrapper(member, encoding="utf-8") as file:
                    yield from self._converted(file, archive)

    def _converted(self, file: IO[str], archive: zipfile.ZipFile | None) -> Iterator[Conversation]:
        for given in objects(file):
            mapping = given.get("mapping")
            if not isinstance(mapping, dict):
                self.lose("conversations without messages")
                continue
            nodes = {key: self._node(key, node, archive) for key, node in mapping.items() if isinstance(node, dict)}
            yield Conversation(
                conversation_id=_text(given.get("conversation_id")) or _text(given.get("id")),
                title=_text(given.get("title")),
                create_time=_time(given.get("create_time")),
                update_time=_time(given.get("update_time")),
                current_id=_text(given.get("current_node")),
                nodes=nodes,
                archived=given.get("is_archived") is True,
                model=_text(given.get("default_model_slug")),
            )

    def _node(self, key: str, node: Object, archive: zipfile.ZipFile | None) -> Node:
        parent = node.get("parent")
        message = _object(node.get("message"))
        metadata = _object(message.get("metadata"))
        role = _text(_object(message.get("author")).get("role")).upper()
        text = ""
        images: tuple[bytes, ...] = ()
        if message and role not in ("USER", "ASSISTANT"):
            self.lose(f"messages of {role.lower() or 'nobody'}")
        elif message and not metadata.get("is_visually_hidden_from_conversation"):
            text, images = self._content(_object(message.get("content")), archive)
        return Node(
            node_id=key,
            parent_id=parent if isinstance(parent, str) else None,
            role=role,
            text=text,
            model=_text(metadata.get("model_slug")),
            create_time=_time(message.get("create_time")),
            images=images,
        )

    def _content(self, content: Object, archive: zipfile.ZipFile | None) -> tuple[str, tuple[bytes, ...]]:
        kind = content.get("content_type")
        if kind not in ("text", "multimodal_text"):
            self.lose(f"contents of type {_text(kind) or 'unknown'}")
            return "", ()
        texts, images = [], []
        for part in content.get("parts") or []:
            if isinstance(part, str):
                texts.append(_text(part))
            elif _object(part).get("content_type") == "image_asset_pointer":
                image = _asset(archive, _text(part.get("asset_pointer")))
                if image is None:
                    self.lose("images")
                else:
                    images.append(image)
            else:
                self.lose("parts that are neither text nor images")
        return "\n".join(filter(None, texts)), tuple(images)


def _asset(archive: zipfile.ZipFile | None, pointer: str) -> bytes | None:
    """Returns the bytes of an image that a pointer such as `file-service://file-1` names, or None."""
    name = pointer.rpartition("://")[2]
    if archive is None or not name:
        return None
    for member in archive.infolist():
        if member.filename.rpartition("/")[2].startswith(name) and member.file_size <= LARGEST_IMAGE:
            return archive.read(member)
    return None


class LibreChat(Foreign):
    """LibreChat's export of a conversation as JSON, with all branches or one, recursive or not."""

    def conversations(self) -> Iterator[Conversation]:
        with open(self.path, encoding="utf-8") as file:
            for given in objects(file):
                messages = given.get("messages", given.get("messagesTree"))
                if not isinstance(messages, list):
                    raise Unreadable("a conversation has neither messages nor messagesTree")
                options = _object(given.get("options"))
                nodes = {node.node_id: node for node in self._nodes(messages)}
                times = [node.create_time for node in nodes.values() if node.create_time is not None]
                yield Conversation(
                    conversation_id=_text(given.get("conversationId")),
                    title=_text(given.get("title")),
                    create_time=min(times, default=None),
                    update_time=max(times, default=None),
                    current_id="",
                    nodes=nodes,
                    system_prompt=_text(options.get("promptPrefix")),
                    model=_text(options.get("model")),
                )

    def _nodes(self, messages: list[Any]) -> Iterator[Node]:
        left = list(reversed(messages))
        while left:
            given = _object(left.pop())
            left += reversed(given.get("children") or [])
            parent = _text(given.get("parentMessageId"))
            for what in ("files", "attachments"):
                for _ in given.get(what) or []:
                    self.lose(what)
            yield Node(
                node_id=_text(given.get("messageId")),
                parent_id=None if parent in ("", NO_PARENT) else parent,
                role="USER" if given.get("isCreatedByUser") is True else "ASSISTANT",
                text=_text(given.get("text")) or self._text_of(given.get("content")),
                model=_text(given.get("model")),
                create_time=_time(given.get("createdAt")),
            )

    def _text_of(self, content: Any) -> str:
        texts = []
        for part in content if isinstance(content, list) else []:
            text = _object(part).get("text")
            if _object(part).get("type") == "text":
                texts.append(_text(text) or _text(_object(text).get("value")))
            else:
                self.lose(f"contents of type {_text(_object(part).get('type')) or 'unknown'}")
        return "\n".join(filter(None, texts))


class OpenWebui(Foreign):
    """open-webui's export of chats as JSON."""

    def conversations(self) -> Iterator[Conversation]:
        with open(self.path, encoding="utf-8") as file:
            for given in objects(file):
                chat = _object(given.get("chat")) or given
                history = _object(chat.get("history"))
                messages = _object(history.get("messages"))
                if not messages:
                    self.lose("conversations without messages")
                    continue
                models = chat.get("models")
                yield Conversation(
                    conversation_id=_text(given.get("id")) or _text(chat.get("id")),
                    title=_text(given.get("title")) or _text(chat.get("title")),
                    create_time=_time(given.get("created_at")),
                    update_time=_time(given.get("updated_at")),
                    current_id=_text(history.get("currentId")),
                    nodes={key: self._node(key, _object(node)) for key, node in messages.items()},
                    archived=given.get("archived") is True,
                    system_prompt=_text(_object(chat.get("params")).get("system")),
                    model=_text(models[0]) if isinstance(models, list) and models else "",
                )

    def _node(self, key: str, given: Object) -> Node:
        parent, text = given.get("parentId"), _text(given.get("content"))
        shown = DETAILS.sub("", text)
        if shown != text:
            self.lose("thinking and calls of tools")
        return Node(
            node_id=key,
            parent_id=parent if isinstance(parent, str) else None,
            role=_text(given.get("role")).upper(),
            text=shown.strip(),
            model=_text(given.get("model")),
            create_time=_time(given.get("timestamp")),
            images=tuple(self._images(given.get("files"))),
        )

    def _images(self, files: Any) -> Iterator[bytes]:
        for file in files if isinstance(files, list) else []:
            found = DATA_URL.fullmatch(_text(_object(file).get("url")))
            try:
                image = b"" if found is None else base64.b64decode(found[1], validate=True)
            except (binascii.Error, ValueError):
                image = b""
            if image:
                yield image
            else:
                self.lose("files")


SYSTEMS: Mapping[str, type[Foreign]] = {"chatgpt": ChatGpt, "librechat": LibreChat, "open-webui": OpenWebui}


def objects(file: IO[str]) -> Iterator[Object]:
    """Yields the objects of a JSON array, or the only one there is, holding one at a time. Raises Unreadable."""
    decoder, text, ended = json.JSONDecoder(), "", False
    wanted = READ_CHARACTERS

    def more() -> None:
        nonlocal text, ended
        read = file.read(wanted)
        text, ended = text + read, not read

    more()
    text = text.lstrip("\ufeff \t\r\n")
    in_array = text.startswith("[")
    text = text[1:] if in_array else text
    while True:
        text = text.lstrip(" \t\r\n,")
        if not text and not ended:
            more()
            continue
        if text.startswith("]") or not text:
            if in_array and not text:
                raise Unreadable("the file is cut")
            return
        try:
            found, end = decoder.raw_decode(text)
        except RecursionError:
            raise Unreadable("the file is too deeply nested") from None
        except ValueError as exc:
            if ended:
                raise Unreadable(f"the file is not JSON ({exc})") from None
            # Twice as much each time, so that a long conversation is not tried again too often.
            wanted = max(READ_CHARACTERS, len(text))
            more()
            continue
        if not isinstance(found, dict):
            raise Unreadable("there is something other than conversations")
        text, wanted = text[end:], READ_CHARACTERS
        yield found
        if not in_array:
            return


def _text(value: Any) -> str:
    # Halves of surrogate pairs are in JSON, but not in UTF-8.
    return value.encode(errors="ignore").decode() if isinstance(value, str) else ""


def _object(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def _time(value: Any) -> int | None:
    """Returns a time in microseconds, given in seconds, milliseconds or as ISO 8601, or None."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 10**13:
        return None
    # A second of that number is in the year 5138.
    return int(value * 1e6) if value < 10**11 else int(value * 1e3)
