"""Reads LibreChat's export."""

from collections.abc import Iterator
from typing import Any

from metamorphd.cli.foreign.conversations import Conversation, Foreign, Node, Unreadable
from metamorphd.cli.foreign.json_files import object_in, objects, text_in, text_of, time_in

NO_PARENT = "00000000-0000-0000-0000-000000000000"


class LibreChat(Foreign):
    """LibreChat's export of a conversation as JSON, with all branches or one, recursive or not."""

    def conversations(self) -> Iterator[Conversation]:
        with open(self.path, encoding="utf-8") as file:
            for given in objects(file):
                messages = given.get("messages", given.get("messagesTree"))
                if not isinstance(messages, list):
                    raise Unreadable("a conversation has neither messages nor messagesTree")
                options = object_in(given.get("options"))
                nodes = {node.node_id: node for node in self._nodes(messages)}
                times = [node.create_time for node in nodes.values() if node.create_time is not None]
                yield Conversation(
                    conversation_id=text_in(given.get("conversationId")),
                    title=text_in(given.get("title")),
                    create_time=min(times, default=None),
                    update_time=max(times, default=None),
                    current_id="",
                    nodes=nodes,
                    system_prompt=text_in(options.get("promptPrefix")),
                    model=text_in(options.get("model")),
                )

    def _nodes(self, messages: list[Any]) -> Iterator[Node]:
        left = list(reversed(messages))
        while left:
            given = object_in(left.pop())
            left += reversed(given.get("children") or [])
            parent = text_in(given.get("parentMessageId"))
            for what in ("files", "attachments"):
                for _ in given.get(what) or []:
                    self.lose(what)
            yield Node(
                node_id=text_in(given.get("messageId")),
                parent_id=None if parent in ("", NO_PARENT) else parent,
                role="USER" if given.get("isCreatedByUser") is True else "ASSISTANT",
                text=text_in(given.get("text")) or text_of(given.get("content"), self.lose),
                model=text_in(given.get("model")),
                create_time=time_in(given.get("createdAt")),
            )
