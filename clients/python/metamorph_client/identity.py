"""Who calls, and what says so in the metadata of each call."""

import inspect
import re
from collections.abc import Awaitable, Callable

from metamorph_client.errors import TokenFailed

Metadata = tuple[tuple[str, str], ...]
Token = str | Callable[[], str | Awaitable[str]] | None
# What a header can have (RFC 9110, section 5.5), without spaces.
_SENDABLE = re.compile(r"[!-~]*")


class Identity:
    """Who calls: a token that is asked for at every call, or a vault in dev mode."""

    def __init__(self, token: Token, vault: str | None) -> None:
        if isinstance(token, str):
            _text("token", token)
        self._token = token
        self._vault = vault
        self.renews_tokens = callable(token)

    def metadata(self) -> Metadata | Awaitable[Metadata]:
        """Returns the metadata of a call, to be awaited if the token is, or if the function that makes it has failed.

        Raises TypeError and ValueError for a token that cannot be sent, and TokenFailed when awaited.
        """
        if not callable(self._token):
            return self._of(self._token)
        try:
            token = self._token()
        except Exception as exc:
            return _failed(TokenFailed.by(exc))
        return self._awaited(token) if inspect.isawaitable(token) else self._of(token)

    async def _awaited(self, token: Awaitable[str]) -> Metadata:
        try:
            found = await token
        except Exception as exc:
            raise TokenFailed.by(exc) from exc
        return self._of(found)

    def _of(self, token: object) -> Metadata:
        bearer, vault = _text("token", token), _text("vault", self._vault)
        return (
            *([("authorization", f"Bearer {bearer}")] if bearer else []),
            *([("x-vault-id", vault)] if vault else []),
        )


async def _failed(error: TokenFailed) -> Metadata:
    raise error


def _text(name: str, value: object) -> str:
    """Returns text, which is empty if there is none.

    Raises TypeError for others, of which no server knows anything, and ValueError for text that cannot be sent.
    """
    if value is None or isinstance(value, str):
        found = value or ""
        sent = _SENDABLE.match(found)
        if sent is None or sent.end() < len(found):
            end = sent.end() if sent else 0
            raise ValueError(f"the {name} has {found[end]!a} after {end} characters, which cannot be sent")
        return found
    if inspect.iscoroutine(value):
        # Or Python warns that nobody has awaited it.
        value.close()
    if callable(value) or inspect.isawaitable(value):
        raise TypeError(f"the {name} must be text, not a function or what one returns")
    raise TypeError(f"the {name} must be text, not {type(value).__name__}")
