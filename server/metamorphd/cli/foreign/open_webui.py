"""Reads open-webui's export."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from metamorphd.cli.foreign.conversations import Conversation, Foreign, Node
from metamorphd.cli.foreign.json_files import Object, object_in, objects, text_in, text_of, time_in

# A model's thinking, and what its tools did, which open-webui shows within the text.
DETAILS = re.compile(r"<details\b[^>]*>.*?</details>", re.DOTALL)
DATA_URL = re.compile(r"data:image/[a-z]+;base64,(.*)", re.DOTALL)


class OpenWebui(Foreign):
    """open-webui's export of chats as JSON."""

    def conversations(self) -> Iterator[Conversation]:
        with open(self.path, encoding="utf-8") as file:
            for given in objects(file):
                chat = object_in(given.get("chat")) or given
                history = object_in(chat.get("history"))
                messages = object_in(history.get("messages"))
                if not messages:
                    self.lose("conversations without messages")
                    continue
                models = chat.get("models")
                yield Conversation(
                    conversation_id=text_in(given.get("id")) or text_in(chat.get("id")),
                    title=text_in(given.get("title")) or text_in(chat.get("title")),
                    create_time=time_in(given.get("created_at")),
                    update_time=time_in(given.get("updated_at")),
                    current_id=text_in(history.get("currentId")),
                    nodes={key: self._node(key, object_in(node)) for key, node in messages.items()},
                    archived=given.get("archived") is True,
                    system_prompt=text_in(object_in(chat.get("params")).get("system")),
                    model=text_in(models[0]) if isinstance(models, list) and models else "",
                )

    def _node(self, key: str, given: Object) -> Node:
        parent, content = given.get("parentId"), given.get("content")
        text = text_in(content) or text_of(content, self.lose)
        shown = DETAILS.sub("", text)
        if shown != text:
            self.lose("thinking and calls of tools")
        return Node(
            node_id=key,
            parent_id=parent if isinstance(parent, str) else None,
            role=text_in(given.get("role")).upper(),
            text=shown.strip(),
            model=text_in(given.get("model")),
            create_time=time_in(given.get("timestamp")),
            images=tuple(self._images(given.get("files"))),
        )

    def _images(self, files: Any) -> Iterator[bytes]:
        for file in files if isinstance(files, list) else []:
            found = DATA_URL.fullmatch(text_in(object_in(file).get("url")))
            try:
                image = b"" if found is None else base64.b64decode(found[1], validate=True)
            except (binascii.Error, ValueError):
                image = b""
            if image:
                yield image
            else:
                self.lose("files")
