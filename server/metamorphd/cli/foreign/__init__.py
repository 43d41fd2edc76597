"""The exports of other systems, by the names that `metamorph vault import --from` has for them.

The formats are those that the systems write: ChatGPT's `conversations.json` in a zip file, LibreChat's JSON of a
conversation, open-webui's JSON of all chats.
"""

from collections.abc import Mapping

from metamorphd.cli.foreign.chatgpt import ChatGpt
from metamorphd.cli.foreign.conversations import Foreign
from metamorphd.cli.foreign.librechat import LibreChat
from metamorphd.cli.foreign.open_webui import OpenWebui

SYSTEMS: Mapping[str, type[Foreign]] = {"chatgpt": ChatGpt, "librechat": LibreChat, "open-webui": OpenWebui}
