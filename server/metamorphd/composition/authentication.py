"""Who a caller is, and who may see metrics and the details of health."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from metamorphd.auth.emblem import EmblemApi
from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.jwks import KeySet
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.auth.tokens import OwnTokens, TokenVerifier
from metamorphd.clock import Clock
from metamorphd.edge.guards import Authenticate
from metamorphd.edge.http.access import Access
from metamorphd.edge.methods import PERMISSIONS
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.settings.server import Settings


@asynccontextmanager
async def verifying(settings: Settings, *, clock: Clock, revoked_tokens: RevokedTokens) -> AsyncIterator[TokenVerifier]:
    """Yields the verifier of every token that the settings accept."""
    async with AsyncExitStack() as parts:
        emblem = key_set = None
        if settings.emblem_api_url or settings.emblem_jwks_url:
            # Only then, because it reads all certificates that the system trusts.
            http = await parts.enter_async_context(HttpClient())
            if settings.emblem_api_url:
                emblem = EmblemApi(url=settings.emblem_api_url, http=http, permissions=PERMISSIONS)
            if settings.emblem_jwks_url:
                key_set = KeySet(
                    url=settings.emblem_jwks_url,
                    http=http,
                    revoked_tokens=revoked_tokens,
                    vaults=settings.jwks_vaults,
                    operators=settings.emblem_jwks_operators,
                )
        yield await parts.enter_async_context(
            TokenVerifier(
                permissions=PERMISSIONS,
                secrets=settings.jwt_secrets,
                key_set=key_set,
                emblem=emblem,
                revoked_tokens=revoked_tokens,
                clock=clock,
                issuer=settings.emblem_jwt_issuer,
                audience=settings.emblem_jwt_audience,
            )
        )


def authenticate_calls(settings: Settings, verifier: TokenVerifier) -> Authenticate:
    """Returns the guard that authenticates callers."""
    return Authenticate(verifier=verifier, dev_mode=settings.emblem_dev_mode, failures=_failures(settings))


def authenticate_visitors(settings: Settings, verifier: TokenVerifier) -> Authenticate:
    """Returns the guard that authenticates the operators who ask over HTTP."""
    # A metrics token that is not ours, perhaps an older one, must not be shown to the Emblem API.
    return Authenticate(verifier=OwnTokens(verifier), dev_mode=False, failures=_failures(settings))


def make_access(settings: Settings) -> Access:
    """Returns who may see what over HTTP. Operators are not recognized before it has a guard to authenticate them."""
    token = settings.metrics_token
    return Access(
        metrics_token=None if token is None else token.get_secret_value(),
        public=not settings.metrics_need_token,
        everybody=settings.emblem_dev_mode,
    )


def _failures(settings: Settings) -> RateLimit:
    return RateLimit(requests=settings.auth_failure_requests, window_seconds=settings.rate_limit_window_seconds)
