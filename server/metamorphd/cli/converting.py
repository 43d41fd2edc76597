"""Writes the exports of other systems in our format, as they are read."""

import hashlib
import re
import tempfile
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import orjson

from metamorphd.cli.foreign.conversations import Conversation, Foreign, Node
from metamorphd.models.attachment import Upload
from metamorphd.models.content import CONTENT_BYTES, text_within
from metamorphd.models.export import FORMAT, FORMAT_VERSION
from metamorphd.models.media_signatures import image_type

CHUNK_BYTES = 1_048_576
# In bytes, beside images: a message has so much at most, whose images are described in the rest.
LONGEST_TEXT, SHORTENED = CONTENT_BYTES - 65_536, "\n(the rest was too long to be imported)"
MOST_IMAGES, LARGEST_IMAGE = 63, 32 * 2**20
TITLE_CHARACTERS, PROMPT_CHARACTERS = 200, 100_000
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
ID_DIGITS = 32
# Beyond, images wait on the disk until all conversations are written.
IN_MEMORY_BYTES = 1_048_576
NO_USAGE = dict.fromkeys(
    ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos"), 0
) | {"estimated": False}
UNKNOWN_USAGE = dict.fromkeys(NO_USAGE)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A message with its IDs. `user_id` is the user's message that it is or follows, empty if there is none.

    `turn_id` is that of a reply, empty for others.
    """

    node: Node
    message_id: str
    parent_id: str | None
    user_id: str
    turn_id: str


class Converting:
    """Converts an export of another system. Messages are of `creator`, and times that it lacks are `now`."""

    def __init__(self, foreign: Foreign, system: str, *, creator: str, now: int) -> None:
        self._foreign = foreign
        self._system = system
        self._creator = creator
        self._now = now
        self._counts: Counter[str] = Counter()
        self._attached: set[str] = set()
        self._sessions: set[str] = set()

    def lines(self) -> Iterator[bytes]:
        """Yields the lines of an export. Raises Unreadable. `lost` of the other system's is complete afterwards."""
        hashed = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as attachments:
            for line in self._all(attachments):
                hashed.update(line)
                yield line
        yield _line("trailer", {"counts": dict(self._counts), "sha256": hashed.hexdigest()})

    def _all(self, attachments: IO[bytes]) -> Iterator[bytes]:
        yield _line("header", {"format": FORMAT, "version": FORMAT_VERSION, "source": self._system})
        for conversation in self._foreign.conversations():
            yield from self._conversation(conversation, attachments)
        attachments.seek(0)
        yield from attachments

    def _record(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        self._counts[kind] += 1
        return _line(kind, fields)

    def _id(self, kind: str, *parts: str) -> str:
        """Returns an ID that is the same whenever the same export is converted."""
        digest = hashlib.sha256(orjson.dumps([self._system, *parts])).hexdigest()
        return f"{kind}_{digest[:ID_DIGITS]}"

    def _conversation(self, conversation: Conversation, attachments: IO[bytes]) -> Iterator[bytes]:
        ordered = list(_in_order(conversation))
        if len(ordered) < sum(not node.empty for node in conversation.nodes.values()):
            self._foreign.lose("conversations with messages that nothing leads to")
        if not ordered:
            self._foreign.lose("conversations without messages")
            return
        created = conversation.create_time or ordered[0][0].create_time or self._now
        conversation_id = conversation.conversation_id or ordered[0][0].node_id
        session_id = self._id("ses", conversation_id)
        if session_id in self._sessions:
            self._foreign.lose("conversations that are there twice")
            return
        self._sessions.add(session_id)
        yield self._record(
            "session",
            {
                "session_id": session_id,
                "title": conversation.title[:TITLE_CHARACTERS],
                # Another provider's, which this server does not have.
                "model": "",
                "system_prompt": conversation.system_prompt[:PROMPT_CHARACTERS],
                "metadata": {"imported_from": self._system},
                "labels": {},
                "archived": conversation.archived,
                "recall_tokens": 0,
                "memory_tool": False,
                "creator": self._creator,
                "create_time": created,
                "update_time": conversation.update_time or created,
            },
        )
        placed = self._placed(conversation_id, ordered)
        # Of a user's message, the turn of its first reply.
        turns = {message.user_id: message.turn_id for message in reversed(placed) if message.turn_id}
        for message in placed:
            node = message.node
            turn_id = message.turn_id or turns.setdefault(message.message_id, self._id("turn", message.message_id))
            answers = node.role == "ASSISTANT"
            yield self._record(
                "message",
                {
                    "message_id": message.message_id,
                    "session_id": session_id,
                    "parent_message_id": message.parent_id,
                    "role": node.role,
                    "content": self._content(node, attachments),
                    "turn_id": turn_id if message.user_id else "",
                    "creator": "" if answers else self._creator,
                    "model": _model(node.model or conversation.model) if answers else "",
                    **UNKNOWN_USAGE,
                    "create_time": node.create_time or created,
                    "delete_time": None,
                    "partial": False,
                    "refused": False,
                    "rejected": False,
                },
            )
        answered = {message.user_id for message in placed if message.turn_id}
        for message in placed:
            unanswered = message.node.role == "USER" and message.message_id not in answered
            if message.turn_id or unanswered:
                turn_id = message.turn_id or turns[message.message_id]
                yield self._turn(session_id, turn_id, message, time=message.node.create_time or created)

    def _placed(self, conversation_id: str, ordered: list[tuple[Node, Node | None]]) -> "list[_Placed]":
        placed: list[_Placed] = []
        asked: dict[str, str] = {}
        for node, parent in ordered:
            message_id = self._id("msg", conversation_id, node.node_id)
            parent_id = None if parent is None else self._id("msg", conversation_id, parent.node_id)
            user_id = message_id if node.role == "USER" else asked.get(parent_id or "", "")
            asked[message_id] = user_id
            turn_id = self._id("turn", message_id) if user_id and node.role == "ASSISTANT" else ""
            placed.append(_Placed(node, message_id, parent_id, user_id, turn_id))
        return placed

    def _turn(self, session_id: str, turn_id: str, message: "_Placed", *, time: int) -> bytes:
        answered = message.node.role == "ASSISTANT"
        fields: dict[str, Any] = {
            "turn_id": turn_id,
            "session_id": session_id,
            "user_message_id": message.user_id,
            "reply_message_id": message.message_id if answered else None,
            "status": "COMPLETED" if answered else "INTERRUPTED",
            "stop_reason": "END_TURN" if answered else None,
            "stop_details": None,
            "error": None,
            **NO_USAGE,
            # The message has the model. Another reply is by the server's.
            "model": "",
            "model_calls": 0,
            "last_sequence": 2,
            "options": {},
            "labels": {},
            "creator": self._creator,
            "create_time": time,
            "finish_time": time,
        }
        return self._record("turn", fields)

    def _content(self, node: Node, attachments: IO[bytes]) -> list[Mapping[str, Any]]:
        blocks: list[Mapping[str, Any]] = []
        for image in node.images:
            kind = image_type(image)
            if kind is None or len(image) > LARGEST_IMAGE or len(blocks) == MOST_IMAGES:
                self._foreign.lose("images")
                continue
            upload = Upload.of(kind, image)
            self._attach(upload, node.create_time or self._now, attachments)
            blocks.append(
                {
                    "type": "image",
                    "attachment_id": upload.attachment_id,
                    "media_type": kind,
                    "size": len(image),
                    "sha256": upload.sha256,
                    "longest_side": 0,
                }
            )
        text = node.text.strip()
        shortened = text_within(text, LONGEST_TEXT)
        if shortened != text:
            self._foreign.lose("ends of long texts")
            text = shortened + SHORTENED
        if text or not blocks:
            blocks.append({"type": "text", "text": text or "(an image that was not exported)"})
        return blocks

    def _attach(self, upload: Upload, time: int, attachments: IO[bytes]) -> None:
        if upload.attachment_id in self._attached:
            return
        self._attached.add(upload.attachment_id)
        fields: dict[str, Any] = {
            "attachment_id": upload.attachment_id,
            "media_type": upload.media_type,
            "size": len(upload.data),
            "sha256": upload.sha256,
            "create_time": time,
            "longest_side": 0,
            "pages": 0,
            "rejected": False,
        }
        attachments.write(self._record("attachment", fields))
        for number, start in enumerate(range(0, len(upload.data), CHUNK_BYTES)):
            data = b64encode(upload.data[start : start + CHUNK_BYTES]).decode()
            chunk = {"attachment_id": upload.attachment_id, "number": number, "data": data}
            attachments.write(self._record("attachment_chunk", chunk))


def _in_order(conversation: Conversation) -> Iterator[tuple[Node, Node | None]]:
    """Yields messages with the ones that they follow, which come first. The last is the one that was shown last.

    Those without content are left out: what follows them follows what precedes them.
    """
    nodes = conversation.nodes
    children: dict[str | None, list[str]] = {}
    for key, node in nodes.items():
        children.setdefault(node.parent_id if node.parent_id in nodes else None, []).append(key)
    shown, at = set[str](), conversation.current_id
    while at in nodes and at not in shown:
        shown.add(at)
        at = nodes[at].parent_id or ""
    left: list[tuple[str, Node | None]] = [(key, None) for key in _last_shown_first(children.get(None, []), shown)]
    while left:
        key, parent = left.pop()
        node = nodes[key]
        if not node.empty:
            yield node, parent
            parent = node
        left += [(child, parent) for child in _last_shown_first(children.get(key, []), shown)]


def _last_shown_first(keys: list[str], shown: set[str]) -> list[str]:
    """Returns keys in the reverse of the order in which they are to be taken: what was shown comes last."""
    return [key for key in keys if key in shown] + [key for key in reversed(keys) if key not in shown]


def _model(name: str) -> str:
    return name if MODEL.fullmatch(name) else ""


def _line(kind: str, fields: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"kind": kind, **fields}, option=orjson.OPT_APPEND_NEWLINE)
