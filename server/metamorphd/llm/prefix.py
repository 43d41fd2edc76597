"""The part of a request that thinking is bound to: the model, and all that a request said before the reply.

The provider signs thinking, and refuses it in a request that begins otherwise than the one that it answered:
https://platform.claude.com/docs/en/build-with-claude/preserved-thinking.
"""

import hashlib

DIGEST_BYTES = 16


class Prefix:
    """The beginning of a request, to which messages are added in order."""

    def __init__(self, beginning: bytes) -> None:
        """`beginning` is what precedes the messages, serialized: the model, the system prompt and the tools."""
        self._beginning = hashlib.blake2b(beginning, digest_size=DIGEST_BYTES)
        self._hash = self._beginning.copy()

    def restart(self) -> None:
        """Forgets all messages, as the provider does before a summary of them."""
        self._hash = self._beginning.copy()

    def add(self, message: bytes) -> None:
        """Adds a message, serialized as it is sent, but for its attachments, whose ids stand for them."""
        # With its length, so that two messages are not taken for one.
        self._hash.update(len(message).to_bytes(8))
        self._hash.update(message)

    @property
    def digest(self) -> str:
        """Returns what identifies all of it, in hexadecimal."""
        return self._hash.hexdigest()
