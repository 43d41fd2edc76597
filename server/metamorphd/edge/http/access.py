"""Who may see what is not for everybody: metrics, and the details of health."""

import hmac
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection

from metamorphd.edge.call import network_of
from metamorphd.edge.guards import Presented
from metamorphd.edge.methods import OPERATOR
from metamorphd.errors import PermissionMissing, StoreNotReady
from metamorphd.models.caller import Caller

BEARER = "bearer "


@dataclass(slots=True)
class _Visitor:
    """The sender of a request, as the guard of calls sees it."""

    authorization: list[str | bytes]
    network: str
    vault_header: list[str | bytes]
    caller: Caller | None = None
    why: str = ""


class Authentication(Protocol):
    def __call__(self, presented: Presented, /) -> Awaitable[None] | None: ...


class Access:
    """Decides who may see what. `metrics_token` is accepted for metrics only; `public` metrics need no token.

    Operators are authenticated as for calls, within the same limits, once the server has `authenticate`. In dev mode
    `everybody` is an operator: only this machine can connect.
    """

    def __init__(self, *, metrics_token: str | None, public: bool, everybody: bool) -> None:
        self._metrics_token = None if metrics_token is None else metrics_token.encode()
        self._public = public
        self._everybody = everybody
        self.authenticate: Authentication | None = None

    @property
    def authenticates(self) -> bool:
        """Returns whether operators can be recognized yet."""
        return self._everybody or self.authenticate is not None

    async def metrics(self, request: HTTPConnection) -> None:
        """Raises a domain error for a request that may not read metrics."""
        if not self._public and not self._has_metrics_token(request):
            await self._operator(request)

    async def operator(self, request: HTTPConnection) -> None:
        """Raises a domain error for a request that is not an operator's."""
        if not self._everybody:
            await self._operator(request)

    async def _operator(self, request: HTTPConnection) -> None:
        if self.authenticate is None:
            raise StoreNotReady(retry_delay=1.0)
        visitor = _Visitor(
            authorization=list(request.headers.getlist("authorization")),
            network=network_of(request.client.host if request.client else ""),
            vault_header=[],
        )
        if (waiting := self.authenticate(visitor)) is not None:
            await waiting
        if visitor.caller is None or not visitor.caller.operator:
            raise PermissionMissing(permission=OPERATOR)

    def _has_metrics_token(self, request: HTTPConnection) -> bool:
        sent = request.headers.getlist("authorization")
        if self._metrics_token is None or len(sent) != 1 or sent[0][: len(BEARER)].lower() != BEARER:
            return False
        return hmac.compare_digest(sent[0][len(BEARER) :].encode(), self._metrics_token)
