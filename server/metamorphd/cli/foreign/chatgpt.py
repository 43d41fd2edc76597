"""Reads ChatGPT's export."""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import IO

from metamorphd.cli.foreign.conversations import Conversation, Foreign, Node, Unreadable
from metamorphd.cli.foreign.json_files import Object, object_in, objects, text_in, time_in

LARGEST_IMAGE = 10 * 1024 * 1024 // 4 * 3
CONVERSATIONS = re.compile(r"(.*/)?conversations(-[0-9]+)?\.json")


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
                conversation_id=text_in(given.get("conversation_id")) or text_in(given.get("id")),
                title=text_in(given.get("title")),
                create_time=time_in(given.get("create_time")),
                update_time=time_in(given.get("update_time")),
                current_id=text_in(given.get("current_node")),
                nodes=nodes,
                archived=given.get("is_archived") is True,
                model=text_in(given.get("default_model_slug")),
            )

    def _node(self, key: str, node: Object, archive: zipfile.ZipFile | None) -> Node:
        parent = node.get("parent")
        message = object_in(node.get("message"))
        metadata = object_in(message.get("metadata"))
        role = text_in(object_in(message.get("author")).get("role")).upper()
        text = ""
        images: tuple[bytes, ...] = ()
        if message and role not in ("USER", "ASSISTANT"):
            self.lose(f"messages of {role.lower() or 'nobody'}")
        elif message and not metadata.get("is_visually_hidden_from_conversation"):
            text, images = self._content(object_in(message.get("content")), archive)
        return Node(
            node_id=key,
            parent_id=parent if isinstance(parent, str) else None,
            role=role,
            text=text,
            model=text_in(metadata.get("model_slug")),
            create_time=time_in(message.get("create_time")),
            images=images,
        )

    def _content(self, content: Object, archive: zipfile.ZipFile | None) -> tuple[str, tuple[bytes, ...]]:
        kind = content.get("content_type")
        if kind not in ("text", "multimodal_text"):
            self.lose(f"contents of type {text_in(kind) or 'unknown'}")
            return "", ()
        texts, images = [], []
        for part in content.get("parts") or []:
            if isinstance(part, str):
                texts.append(text_in(part))
            elif object_in(part).get("content_type") == "image_asset_pointer":
                image = _asset(archive, text_in(part.get("asset_pointer")))
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
