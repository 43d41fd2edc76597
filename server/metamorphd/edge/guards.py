"""The guards: authentication, authorization, rate limits, validation.

A guard is a callable that takes the call, and returns None or raises a domain error; if it has to wait, it returns an
awaitable. Each guard lists those that it must follow, and a list in another order is refused.
"""

import asyncio
from collections.abc import Awaitable, Hashable, Iterable
from typing import ClassVar, Protocol, Self

import protovalidate
from google.protobuf.message import DecodeError, Message
from metamorph_client.api.v1.options_pb2 import RateClass

from metamorphd.auth.claims import VAULT_ID
from metamorphd.auth.tokens import Pending
from metamorphd.edge.call import Call
from metamorphd.edge.carried import take_carried
from metamorphd.edge.methods import OPERATOR, PERMISSIONS
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.edge.wire import count_fields
from metamorphd.errors import (
    DomainError,
    FieldViolation,
    PermissionMissing,
    RateLimited,
    RequestInvalid,
    RequestMalformed,
    RequestTooLarge,
    StartupRefused,
    TokenInvalid,
    TokenMissing,
    TokenRefused,
    VaultHeaderNotAllowed,
)
from metamorphd.models.caller import Caller

BEARER = "Bearer "
DEV_VAULT = "dev-vault"
VIOLATIONS_SHOWN = 32
# In bytes. The fields of a request of this size are not counted, and all its violations are found, within 50 ms.
SMALL = 1024
# In bytes, with attachments. Larger requests are parsed and validated on a thread: the event loop serves all callers.
LARGEST_INLINE = 65_536


class Guard(Protocol):
    """A check that every call must pass."""

    follows: ClassVar[frozenset[type]]
    """The classes of guards that must come before it."""
    reads_requests: ClassVar[bool]
    """Whether the guard checks each request, rather than the call before any request is read."""

    def __call__(self, call: Call, /) -> Awaitable[None] | None: ...


def ordered(guards: Iterable[Guard]) -> tuple[list[Guard], list[Guard]]:
    """Returns the guards of calls and the guards of requests, in order. Raises StartupRefused for a wrong order."""
    of_calls: list[Guard] = []
    of_requests: list[Guard] = []
    for guard in guards:
        before = [*of_calls, *of_requests]
        missing = sorted(kind.__name__ for kind in guard.follows if not any(isinstance(each, kind) for each in before))
        if missing:
            raise StartupRefused(f"guard {type(guard).__name__} must follow {', '.join(missing)}")
        if of_requests and not guard.reads_requests:
            raise StartupRefused(f"guard {type(guard).__name__} must precede the guards that read requests")
        (of_requests if guard.reads_requests else of_calls).append(guard)
    return of_calls, of_requests


class Verifier(Protocol):
    def verify(self, text: str) -> Caller | Pending: ...


class Presented(Protocol):
    """The part of a call, or of a request of another protocol, that Authenticate needs. See `Call` for what it sets."""

    authorization: list[str | bytes]
    vault_header: list[str | bytes]
    caller: Caller | None
    why: str

    @property
    def network(self) -> str: ...


class Authenticate:
    """Sets the caller. The first guard: refusing a call here costs almost nothing, and all others need the caller.

    In dev mode a call without a token acts on the vault in `x-vault-id`. `failures` limits refused tokens per network.
    Above the limit, refusals are RateLimited, and unknown tokens that each need a request to another server are not
    verified. Tokens that this server verifies itself, also with a key set, and those that were accepted before still
    are, so sharing an address with a hostile caller does not lock them out.
    """

    follows: ClassVar[frozenset[type]] = frozenset()
    reads_requests: ClassVar[bool] = False

    def __init__(self, *, verifier: Verifier, dev_mode: bool, failures: RateLimit) -> None:
        self._verifier = verifier
        self._dev_mode = dev_mode
        self._failures = failures

    def __call__(self, call: Presented) -> Awaitable[None] | None:
        authorization, vault_header = call.authorization, call.vault_header
        if vault_header and (authorization or not self._dev_mode):
            raise VaultHeaderNotAllowed
        if not authorization and self._dev_mode:
            call.caller = _dev_caller(vault_header)
            return None
        try:
            verified = self._verifier.verify(_bearer(authorization))
        except (TokenRefused, TokenMissing) as refusal:
            raise self._refusal(call, refusal) from None
        if not isinstance(verified, Caller):
            return self._wait(call, verified)
        call.caller = verified
        return None

    async def _wait(self, call: Presented, pending: Pending) -> None:
        network = call.network
        if pending.stranger and (wait := self._failures.wait(network)) > 0:
            raise RateLimited(retry_delay=wait)
        try:
            call.caller = await pending.verify(network)
        except (TokenRefused, TokenMissing) as refusal:
            raise self._refusal(call, refusal) from None

    def _refusal(self, call: Presented, refusal: DomainError) -> DomainError:
        if isinstance(refusal, TokenRefused):
            # Here too, because the caller may be refused for another reason.
            call.why = refusal.why
        if not isinstance(refusal, TokenInvalid | TokenMissing):
            return refusal
        wait = self._failures.take(call.network)
        return RateLimited(retry_delay=wait) if wait > 0 else refusal


def _bearer(authorization: list[str | bytes]) -> str:
    # With several entries, a proxy might have checked another one than we do.
    if len(authorization) != 1:
        raise TokenMissing
    value = authorization[0]
    # The scheme is case-insensitive (RFC 9110, section 11.1).
    if not isinstance(value, str) or value[: len(BEARER)].lower() != BEARER.lower():
        raise TokenMissing
    return value[len(BEARER) :]


def _dev_caller(vault_header: list[str | bytes]) -> Caller:
    vault_id = vault_header[0] if vault_header else DEV_VAULT
    if len(vault_header) > 1 or not isinstance(vault_id, str) or not VAULT_ID.fullmatch(vault_id):
        raise VaultHeaderNotAllowed
    return Caller(
        vault_id=vault_id,
        user_id="dev-user",
        email="",
        permissions=PERMISSIONS,
        operator=False,
        auth_method="dev",
        token_id=None,
        issue_time=None,
        expire_time=None,
    )


class Authorize:
    """Second: requires every permission of the method. A method that lists none is refused to all callers."""

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate})
    reads_requests: ClassVar[bool] = False

    def __call__(self, call: Call) -> None:
        caller = call.caller
        if caller is None:
            raise RuntimeError("Authorize must follow Authenticate")
        if not call.method.requires:
            raise PermissionMissing(permission="unspecified")
        for claim in call.method.claims:
            if claim not in caller.permissions and not (claim == OPERATOR and caller.operator):
                raise PermissionMissing(permission=claim)


class Limit(Protocol):
    def take(self, key: tuple[Hashable, ...]) -> float | Awaitable[float]: ...


class Limits(Protocol):
    """Creates limits. An async context manager, which must be entered first."""

    def limit(self, name: str, *, requests: int, window_seconds: float) -> Limit: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class LimitRate:
    """Third, before requests are parsed, so that a flood is refused cheaply. Calls are counted per vault and user.

    Methods with RATE_CLASS_RESUME, such as StreamTurn, are counted separately, by `resume`.
    """

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize})
    reads_requests: ClassVar[bool] = False

    def __init__(self, *, general: Limit, resume: Limit) -> None:
        self._limits = {RateClass.RATE_CLASS_UNSPECIFIED: general, RateClass.RATE_CLASS_RESUME: resume}

    def __call__(self, call: Call) -> Awaitable[None] | None:
        if call.caller is None:
            raise RuntimeError("LimitRate must follow Authenticate")
        wait = self._limits[call.method.rate_class].take((call.caller.vault_id, call.caller.user_id))
        if not isinstance(wait, float):
            return self._refuse_later(wait)
        if wait > 0:
            raise RateLimited(retry_delay=wait)
        return None

    async def _refuse_later(self, pending: Awaitable[float]) -> None:
        wait = await pending
        if wait > 0:
            raise RateLimited(retry_delay=wait)


class LimitSize:
    """Fourth: limits the size of each request and the number of its fields, before it is parsed.

    Both limits come from the proto. Empty submessages of two bytes would take up a hundred times the memory.
    """

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize, LimitRate})
    reads_requests: ClassVar[bool] = True

    def __call__(self, call: Call) -> None:
        method = call.method
        size = len(call.raw)
        if size > method.max_request_bytes:
            raise RequestTooLarge(limit_bytes=method.max_request_bytes)
        if size > SMALL:
            count_fields(call.raw, method.shape)


class Validate:
    """Last: parses each request, without its attachments, and checks the rules in its proto.

    Takes the request's bytes off the call, and sets its attachments.
    """

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize, LimitRate, LimitSize})
    reads_requests: ClassVar[bool] = True

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()
        self._parsing = asyncio.Lock()

    def __call__(self, call: Call) -> Awaitable[None] | None:
        if len(call.raw) > LARGEST_INLINE:
            return self._parse_later(call)
        self._parse(call)
        return None

    async def _parse_later(self, call: Call) -> None:
        # One after another: each one holds the GIL, and all but its attachments exists several times meanwhile.
        async with self._parsing:
            await asyncio.to_thread(self._parse, call)

    def _parse(self, call: Call) -> None:
        raw, places = call.take_raw(), call.method.attachments
        if places:
            raw, call.carried = take_carried(raw, places)
        call.request = self._parsed(call.method.request_type, raw)

    def _parsed(self, request_type: type[Message], raw: bytes) -> Message:
        try:
            request = request_type.FromString(raw)
        except DecodeError:
            raise RequestMalformed from None
        try:
            # For large requests, stop at the first violation: finding thousands takes a second.
            violations = self._validator.collect_violations(request, fail_fast=len(raw) > SMALL)
        except protovalidate.EvaluationError:
            raise RequestInvalid(violations=[FieldViolation("", "is too large to be validated")]) from None
        if violations:
            raise RequestInvalid(violations=[_violation(violation) for violation in violations[:VIOLATIONS_SHOWN]])
        return request


def _violation(violation: protovalidate.Violation) -> FieldViolation:
    path = violation.proto.field
    elements = () if path is None else path.elements
    return FieldViolation(
        field=".".join(map(_element, elements)), description=violation.proto.message or violation.proto.rule_id
    )


def _element(element: protovalidate.FieldPathElementPb) -> str:
    """Returns an element of a field path (AIP-193), such as `content[0]`. Map keys, the caller's text, are omitted."""
    subscript = element.subscript
    if subscript is not None and subscript.field == "index":
        return f"{element.field_name}[{subscript.value}]"
    return element.field_name
