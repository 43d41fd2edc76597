"""Has the heads of logs time-stamped, so that nobody can write a log anew and say that it was so before."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import AuthorityFailed
from metamorphd.metrics import Figures
from metamorphd.models.finding import Finding, ok, warning

if TYPE_CHECKING:
    # A server without time stamps does not need its libraries.
    from metamorphd.audit.authority import Authority

# Digests that a token is for, and those that wait while the authority fails, about four days' of a busy server.
TOKEN_DIGESTS, WAITING_DIGESTS = 100, 10_000
RETRY_SECONDS = 300
# While it fails, a log line is enough for so long.
QUIET_SECONDS = 3_600
GAUGE = "metamorph_audit_unstamped_seconds"
ABOUT = "How long the oldest heads of logs that are to be time-stamped have waited, 0 if none do"

logger = structlog.get_logger(__name__)


class Stamping(Protocol):
    """Has digests of heads time-stamped."""

    @property
    def gauges(self) -> Figures:
        """Returns figures for metrics."""
        ...

    def findings(self) -> list[Finding]:
        """Returns how the authority does."""
        ...

    def add(self, digest: bytes) -> None:
        """Has a digest stamped later, by a token in the log stream."""

    async def work(self) -> None:
        """Has those stamped that wait, if it is time. Returns within seconds, whatever the authority does."""

    async def stamp(self, digest: bytes) -> str:
        """Returns a token over a digest, in base64, or nothing if there is none now."""
        ...

    async def aclose(self) -> None:
        """Closes the connections."""


class NoStamping:
    """Stamps nothing. Implements Stamping."""

    @property
    def gauges(self) -> Figures:
        return {GAUGE: (ABOUT, lambda: 0.0)}

    def findings(self) -> list[Finding]:
        return []

    def add(self, digest: bytes) -> None:
        """Does nothing."""

    async def work(self) -> None:
        """Does nothing."""

    async def stamp(self, _digest: bytes) -> str:
        return ""

    async def aclose(self) -> None:
        """Does nothing."""


class AuthorityStamping:
    """Asks an authority every `interval_minutes`, if anything waits. Implements Stamping."""

    def __init__(self, *, authority: "Authority", clock: Clock, interval_minutes: float) -> None:
        self._authority = authority
        self._clock = clock
        self._interval = int(interval_minutes * 60e6)
        # Each with when it was added, in that order.
        self._waiting: list[tuple[bytes, int]] = []
        self._due = 0
        self._stamp_time = 0
        self._failing = ""
        self._quiet_until = 0

    @property
    def gauges(self) -> Figures:
        return {GAUGE: (ABOUT, self._unstamped_seconds)}

    def findings(self) -> list[Finding]:
        if self._failing:
            return [
                warning(
                    "audit-timestamps",
                    f"the authority of AUDIT_TSA_URL gives no time stamps: {self._failing}",
                    "see that it can be reached, and that AUDIT_TSA_CERTIFICATES has the certificate that it ends in",
                )
            ]
        return [ok("audit-timestamps", "heads of logs are time-stamped")] if self._stamp_time else []

    def _unstamped_seconds(self) -> float:
        return (self._clock.now() - self._waiting[0][1]) / 1e6 if self._waiting else 0.0

    def add(self, digest: bytes) -> None:
        self._waiting.append((digest, self._clock.now()))
        if len(self._waiting) > WAITING_DIGESTS:
            del self._waiting[0]

    async def work(self) -> None:
        # Many do not wait for the interval, unless the authority fails.
        full = len(self._waiting) >= TOKEN_DIGESTS and not self._failing
        if not self._waiting or not (full or self._clock.now() >= self._due):
            return
        stamped = [digest for digest, _ in self._waiting[:TOKEN_DIGESTS]]
        if token := await self._ask(stamped):
            logger.info("audit timestamp", digests=[digest.hex() for digest in stamped], stamp=token)
            # What was added meanwhile may have moved others out.
            kept = set(stamped)
            self._waiting = [each for each in self._waiting if each[0] not in kept]

    async def stamp(self, digest: bytes) -> str:
        return await self._ask([digest])

    async def aclose(self) -> None:
        await self._authority.aclose()

    async def _ask(self, digests: Sequence[bytes]) -> str:
        try:
            token = await self._authority.stamp(digests)
        except AuthorityFailed as exc:
            self._failed(str(exc))
            return ""
        now = self._clock.now()
        self._due, self._stamp_time = now + self._interval, now
        if self._failing:
            self._failing, self._quiet_until = "", 0
            logger.info("the authority gives time stamps again")
        return base64.b64encode(token).decode()

    def _failed(self, why: str) -> None:
        now = self._clock.now()
        self._failing, self._due = why, now + RETRY_SECONDS * 1_000_000
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS * 1_000_000
            logger.warning(
                "heads of logs are not time-stamped; they wait until the authority does",
                error=why,
                remedy="check AUDIT_TSA_URL and AUDIT_TSA_CERTIFICATES",
            )
