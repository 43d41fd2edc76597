"""Values of secrets on their way, in the age format (https://age-encryption.org/v1)."""

import pyrage
from pyrage import x25519


class KeyInvalid(Exception):
    """A text is not an age key."""


class Recipient:
    """Whom values are encrypted for: an age recipient, `age1…`. Raises KeyInvalid."""

    def __init__(self, text: str) -> None:
        try:
            self._recipient = x25519.Recipient.from_str(text)
        except pyrage.RecipientError as exc:
            raise KeyInvalid from exc

    def seal(self, value: bytes) -> bytes:
        """Returns a value that only the recipient can read."""
        return bytes(pyrage.encrypt(value, [self._recipient]))
