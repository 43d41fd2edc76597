"""The guards: authentication, permission, rate, validation.

Each is a callable of the call that returns nothing or raises a domain error; one that must wait returns an awaitable.
Each names the guards that it must follow, and a list in another order is refused.
"""

from collections.abc import Awaitable, Coroutine, Hashable, Iterable
from typing import Any, ClassVar, Protocol, Self

import protovalidate
from google.protobuf.message import DecodeError
from metamorph.api.v1.options_pb2 import RateClass

from metamorphd.auth.claims import VAULT_ID
from metamorphd.edge.call import Call
from metamorphd.edge.methods import OPERATOR, PERMISSIONS
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.errors import (
    DomainError,
    FieldViolation,
    PermissionMissing,
    RateLimited,
    RequestInvalid,
    RequestMalformed,
    StartupRefused,
    TokenInvalid,
    TokenMissing,
    VaultHeaderNotAllowed,
)
from metamorphd.models.caller import Caller

BEARER = "Bearer "
DEV_VAULT = "dev-vault"
VIOLATIONS_SHOWN = 32
# In bytes. All violations of a request of that size take less than a tenth of a second to find.
LARGEST_CHECKED_WHOLE = 4096


class Guard(Protocol):
    """A check that every call passes."""

    follows: ClassVar[frozenset[type]]
    """The classes of guards that must come before it."""
    reads_requests: ClassVar[bool]
    """Whether it checks requests, each one of a stream, and not the call before anything is read."""

    def __call__(self, call: Call, /) -> Awaitable[None] | None: ...


def ordered(guards: Iterable[Guard]) -> tuple[list[Guard], list[Guard]]:
    """Returns the guards of calls and those of requests, each in order. Raises StartupRefused for a wrong order."""
    of_calls: list[Guard] = []
    of_requests: list[Guard] = []
    for guard in guards:
        before = [*of_calls, *of_requests]
        missing = sorted(kind.__name__ for kind in guard.follows if not any(isinstance(each, kind) for each in before))
        if missing:
            raise StartupRefused(f"guard {type(guard).__name__} must follow {', '.join(missing)}")
        if of_requests and not guard.reads_requests:
            raise StartupRefused(f"guard {type(guard).__name__} must come before those that read requests")
        (of_requests if guard.reads_requests else of_calls).append(guard)
    return of_calls, of_requests


class Verifier(Protocol):
    def verify(self, text: str) -> Caller | Coroutine[Any, Any, Caller]: ...


class Authenticate:
    """First: whoever is refused here has cost nothing yet, and all that follows needs the caller.

    In dev mode a call without a token acts on the vault in `x-vault-id`. `failures` counts refused tokens by network:
    beyond it a refusal says when to come back, and nobody else is asked about a token. Tokens that are ours to verify
    still pass then: whoever shares the address of a hostile caller is not locked out.
    """

    follows: ClassVar[frozenset[type]] = frozenset()
    reads_requests: ClassVar[bool] = False

    def __init__(self, *, verifier: Verifier, dev_mode: bool, failures: RateLimit) -> None:
        self._verifier = verifier
        self._dev_mode = dev_mode
        self._failures = failures

    def __call__(self, call: Call) -> Awaitable[None] | None:
        authorization, vault_header = call.authorization, call.vault_header
        if vault_header and (authorization or not self._dev_mode):
            raise VaultHeaderNotAllowed
        if not authorization and self._dev_mode:
            call.caller = _dev_caller(vault_header)
            return None
        try:
            verified = self._verifier.verify(_bearer(authorization))
        except (TokenInvalid, TokenMissing) as refusal:
            raise self._count(call, refusal) from None
        if not isinstance(verified, Caller):
            return self._wait(call, verified)
        call.caller = verified
        return None

    async def _wait(self, call: Call, verifying: Coroutine[Any, Any, Caller]) -> None:
        wait = self._failures.wait(call.network)
        if wait > 0:
            verifying.close()
            raise RateLimited(retry_delay=wait)
        try:
            call.caller = await verifying
        except (TokenInvalid, TokenMissing) as refusal:
            raise self._count(call, refusal) from None

    def _count(self, call: Call, refusal: DomainError) -> DomainError:
        wait = self._failures.take(call.network)
        return RateLimited(retry_delay=wait) if wait > 0 else refusal


def _bearer(authorization: list[str | bytes]) -> str:
    # Of several entries a dictionary would take the last, a proxy perhaps the first.
    if len(authorization) != 1:
        raise TokenMissing
    value = authorization[0]
    # The scheme's name has no case (RFC 9110, section 11.1).
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
    """Second: the caller must have every permission of the method. One that requires none is refused to everyone."""

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate})
    reads_requests: ClassVar[bool] = False

    def __call__(self, call: Call) -> None:
        caller = call.caller
        if caller is None or not call.method.requires:
            raise PermissionMissing(permission="unspecified")
        for claim in call.method.claims:
            if claim not in caller.permissions and not (claim == OPERATOR and caller.operator):
                raise PermissionMissing(permission=claim)


class Limit(Protocol):
    def take(self, key: tuple[Hashable, ...]) -> float | Awaitable[float]: ...


class Limits(Protocol):
    """Makes limits, between entering and leaving it as a context."""

    def limit(self, name: str, *, requests: int, window_seconds: float) -> Limit: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class LimitRate:
    """Third, before anything is parsed: a flood is refused cheaply. Counted by vault and user.

    StreamTurn and its kind draw on an allowance of their own, the second.
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
            return self._ask(wait)
        if wait > 0:
            raise RateLimited(retry_delay=wait)
        return None

    async def _ask(self, asking: Awaitable[float]) -> None:
        wait = await asking
        if wait > 0:
            raise RateLimited(retry_delay=wait)


class Validate:
    """Last: parses the request and checks the rules that its proto states. Where requests are streamed, each."""

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize, LimitRate})
    reads_requests: ClassVar[bool] = True

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def __call__(self, call: Call) -> None:
        try:
            request = call.method.request_type.FromString(call.raw)
        except DecodeError:
            raise RequestMalformed from None
        try:
            # Of a large request the first is enough: a million of them would take the event loop half a minute.
            violations = self._validator.collect_violations(request, fail_fast=len(call.raw) > LARGEST_CHECKED_WHOLE)
        except protovalidate.EvaluationError:
            raise RequestInvalid(violations=[FieldViolation("", "is too large to be checked")]) from None
        if violations:
            raise RequestInvalid(violations=[_violation(violation) for violation in violations[:VIOLATIONS_SHOWN]])
        call.request = request


def _violation(violation: protovalidate.Violation) -> FieldViolation:
    path = violation.proto.field
    elements = () if path is None else path.elements
    return FieldViolation(
        field=".".join(map(_element, elements)), description=violation.proto.message or violation.proto.rule_id
    )


def _element(element: protovalidate.FieldPathElementPb) -> str:
    """A step of a path as in AIP-193: `content[0]`. Map keys are the caller's own text and are left out."""
    subscript = element.subscript
    if subscript is not None and subscript.field == "index":
        return f"{element.field_name}[{subscript.value}]"
    return element.field_name
