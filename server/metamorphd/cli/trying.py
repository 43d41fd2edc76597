"""Tries a running server: with bad tokens, with two vaults, and asked by an operator."""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc
import jwt
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.admin.v1.admin_service_pb2 import (
    FINDING_STATUS_FAILED,
    FINDING_STATUS_OK,
    GetServerInfoRequest,
    GetServerInfoResponse,
    ListBackupsRequest,
)
from metamorph_client.admin.v1.backup_pb2 import (
    BACKUP_STATE_CREATING,
    BACKUP_STATE_READY,
    BACKUP_STATE_VERIFYING,
    BackupState,
)
from metamorph_client.chat.v1.chat_service_pb2 import (
    CreateSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
)
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from metamorphd.checks.remote import backups, versions
from metamorphd.cli.reaching import over_http, reach
from metamorphd.cli.token import mint
from metamorphd.errors import StartupRefused
from metamorphd.models.finding import Finding, FindingStatus, failed, ok, warning
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.loading import load_signing
from metamorphd.store import migrations

CALL_SECONDS = 10.0
# Of a text from a server, which may be another one.
LONGEST_SHOWN = 200
STATUSES = {
    FINDING_STATUS_OK: FindingStatus.OK,
    FINDING_STATUS_FAILED: FindingStatus.FAILED,
}
# Sessions of the trial are in vaults of their own, so that nobody's are touched.
VAULTS = ("metamorph-check-1", "metamorph-check-2")
REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
Metadata = tuple[tuple[str, str], ...]


async def running_findings(*, target: str, http: str, settings: ClientSettings) -> list[Finding]:
    """Returns what is found of a running server, with an operator's token, or one signed with EMBLEM_JWT_SECRET."""
    reached = await reach(target, settings)
    findings = [*reached.findings, *await over_http(http)]
    if not reached.usable:
        return findings
    async with MetamorphClient(target, tls=reached.tls) as client:
        skewed = any(each.name == "clock" and each.status is FindingStatus.FAILED for each in findings)
        trial = Trial(client, token=settings.sent_token, skewed=skewed)
        for part in (trial.authentication, trial.operator, trial.isolation):
            try:
                findings += [each async for each in part()]
            except MetamorphError as exc:
                mend = "look into the server's log; if this is another port of it, name that of gRPC with --target"
                findings.append(failed(part.__name__, f"a call fails: {_shown(exc)}", mend))
    return findings


class Trial:
    """Calls of a server, with tokens that each call carries itself. Parts raise MetamorphError.

    `token` is an operator's, or None. `skewed` is whether the server's clock is known to differ.
    """

    def __init__(self, client: MetamorphClient, *, token: str | None, skewed: bool) -> None:
        self._client = client
        self._token = token
        self._skewed = skewed

    async def authentication(self) -> AsyncIterator[Finding]:
        """Sends no token, and bad ones."""
        yield await self._bad_tokens(open_to_all=await self._accepted(()))

    async def operator(self) -> AsyncIterator[Finding]:
        """Asks the server what only that can see."""
        if self._token is None and not _can_sign():
            yield warning(
                "operator",
                "what only the server knows was not asked, for lack of an operator's token",
                "set EMBLEM_JWT_SECRET as the server has it, or pass --token",
            )
            return
        async for finding in self._as_operator(self._token or _signed("operator", operator=True)):
            yield finding

    async def isolation(self) -> AsyncIterator[Finding]:
        """Tries to reach what is in one vault from another."""
        if _can_sign() and await self._accepted(_bearer(_signed(VAULTS[0]))):
            yield await self._isolation([_bearer(_signed(vault)) for vault in VAULTS])
        elif await self._accepted(()):
            yield await self._isolation([(("x-vault-id", vault),) for vault in VAULTS])
        else:
            yield warning(
                "isolation",
                "the isolation of vaults was not tried, for lack of two tokens that the server accepts",
                "set EMBLEM_JWT_SECRET as the server has it",
            )

    async def _bad_tokens(self, *, open_to_all: bool) -> Finding:
        if open_to_all:
            return warning(
                "authentication", "calls without a token are accepted: it is dev mode", "set EMBLEM_DEV_MODE=false"
            )
        claims = {"vault_id": VAULTS[0], "sub": "check", "permissions": ["read"], "exp": int(time.time()) + 300}
        bad = {
            "that is no token": "not.a.token",
            "signed with another secret": jwt.encode(claims, secrets.token_hex(32), algorithm="HS256"),
            "that is not signed": jwt.encode(claims, "", algorithm="none"),
        }
        if _can_sign():
            bad["that has expired"] = _signed(VAULTS[0], age=3600)
        for kind, token in bad.items():
            if await self._accepted(_bearer(token)):
                return failed(
                    "authentication", f"a token {kind} is accepted", "take the server off the network, and report it"
                )
        return ok("authentication", f"no token, and {len(bad)} kinds of bad ones, are refused")

    async def _accepted(self, metadata: Metadata) -> bool:
        try:
            await self._client.vault.WhoAmI(WhoAmIRequest(), metadata=metadata, timeout=CALL_SECONDS)
        except MetamorphError as exc:
            if exc.code in REFUSED:
                return False
            raise
        return True

    async def _as_operator(self, token: str) -> AsyncIterator[Finding]:
        admin, carried = self._client.admin, _carried(_bearer(token))
        try:
            info = await admin.GetServerInfo(GetServerInfoRequest(), **carried)
        except MetamorphError as exc:
            if exc.code not in REFUSED | {grpc.StatusCode.PERMISSION_DENIED}:
                raise
            yield _refused(exc, skewed=self._skewed)
            return
        for finding in info.findings:
            # Of one that a newer server has, an operator should know too.
            status = STATUSES.get(finding.status, FindingStatus.WARNING)
            yield Finding(finding.name, status, finding.what, finding.remedy)
        yield versions(
            server=info.version,
            schema=info.store.schema_version,
            own=version("metamorphd"),
            own_schema=migrations.load(info.store.engine)[-1][0],
        )
        listed = await admin.ListBackups(ListBackupsRequest(), **carried)
        for judged in _backups(info, listed.backups):
            yield judged

    async def _isolation(self, identities: list[Metadata]) -> Finding:
        """Stores a session in one vault and tries to reach it from the other."""
        chat = self._client.chat
        own, other = (_carried(identity) for identity in identities)
        try:
            made = await chat.CreateSession(CreateSessionRequest(session=Session(title="metamorph check")), **own)
        except MetamorphError as exc:
            return warning("isolation", f"the isolation of vaults could not be tried: {_shown(exc)}", "mend that first")
        session_id = made.session.session_id
        try:
            attempts: dict[str, Callable[[], Awaitable[Any]]] = {
                "read": lambda: chat.GetSession(GetSessionRequest(session_id=session_id), **other),
                "deleted": lambda: chat.DeleteSession(DeleteSessionRequest(session_id=session_id), **other),
            }
            done = [what for what, attempt in attempts.items() if await _answered(attempt)]
            listed = await chat.ListSessions(ListSessionsRequest(), **other)
            done += ["listed"] if any(each.session_id == session_id for each in listed.sessions) else []
        finally:
            # Also those of a trial that was cut off. Another one may do the same now.
            for session in (await chat.ListSessions(ListSessionsRequest(), **own)).sessions:
                removal = DeleteSessionRequest(session_id=session.session_id)
                await _answered(partial(chat.DeleteSession, removal, **own))
        if done:
            return failed(
                "isolation",
                f"one vault's session can be {' and '.join(done)} by another",
                "take the server off the network",
            )
        return ok("isolation", "one vault's session can be neither read, listed nor deleted by another")


async def _answered(attempt: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await attempt()
    except MetamorphError as exc:
        if exc.code is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    return True


def _refused(refusal: MetamorphError, *, skewed: bool) -> Finding:
    """Says why a token that should be an operator's is refused."""
    shown = f"the operator's token is refused: {str(refusal)[:LONGEST_SHOWN]}"
    if refusal.code is grpc.StatusCode.PERMISSION_DENIED:
        return failed("operator", shown, "`metamorph token --operator` mints one that is an operator's")
    if refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return failed("operator", shown, "too many tokens were refused from here; wait, or see AUTH_FAILURE_REQUESTS")
    if skewed:
        return failed("operator", f"{shown} (the clocks differ)", "set both clocks, then check again")
    return failed(
        "operator",
        shown,
        "set EMBLEM_JWT_SECRET, EMBLEM_JWT_ISSUER and EMBLEM_JWT_AUDIENCE here as the server has them; its log has the "
        "reason as `why`",
    )


def _shown(error: MetamorphError) -> str:
    return str(error)[:LONGEST_SHOWN]


def _backups(info: GetServerInfoResponse, listed: Any) -> list[Finding]:
    finished = [each for each in listed if each.state not in (BACKUP_STATE_CREATING, BACKUP_STATE_VERIFYING)]
    good = [each for each in listed if each.state in (BACKUP_STATE_READY, BACKUP_STATE_VERIFYING)]
    first = finished[0] if finished else None
    state = "" if first is None else BackupState.Name(first.state).removeprefix("BACKUP_STATE_").lower()
    bad = first is not None and first.state != BACKUP_STATE_READY
    return list(
        backups(
            newest=max((each.create_time.seconds for each in good), default=None),
            verified=max((each.verify_time.seconds for each in good if each.HasField("verify_time")), default=None),
            fault=f"{first.name} is {state} {first.fault[:LONGEST_SHOWN]}".strip() if bad and first is not None else "",
            interval_hours=float(info.settings["BACKUP_INTERVAL_HOURS"]),
            uptime=info.uptime.seconds,
            # The server's time: this machine's may differ.
            now=info.start_time.seconds + info.uptime.seconds,
        )
    )


def _can_sign() -> bool:
    try:
        load_signing()
    except StartupRefused:
        return False
    return True


def _signed(vault: str, *, operator: bool = False, age: int = 0) -> str:
    """Returns a token for a few minutes, signed `age` seconds ago."""
    claims: dict[str, object] = {"vault_id": vault, "sub": "check", "permissions": ["read", "write", "delete"]}
    token, _ = mint(claims | ({"operator": True} if operator else {}), lifetime=300, age=age)
    return token


def _carried(identity: Metadata) -> dict[str, Any]:
    return {"metadata": identity, "timeout": CALL_SECONDS}


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)
