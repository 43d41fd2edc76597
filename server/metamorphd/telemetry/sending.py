"""Sends what was recorded to an OTLP receiver (https://opentelemetry.io/docs/specs/otlp/#otlphttp).

Nothing waits for the receiver: what it does not take in time is dropped, and counted.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self

import httpx2
import structlog

from metamorphd.metrics import Counter
from metamorphd.models.finding import Finding, ok, warning

TIMEOUT_SECONDS = 10.0
# In bytes, of a response that says what was rejected.
LARGEST_RESPONSE = 64 * 1024
# The specification's list. Others are not tried again.
BUSY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
ATTEMPTS = 3
RETRY_SECONDS = 1.0
LONGEST_WAIT = 30.0
# While sending fails, a log line is enough for so long.
QUIET_SECONDS = 300.0

TRACES, METRICS = "traces", "metrics"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """The content of a request: `count` spans or data points.

    `encode` returns them as OTLP's protobuf. It is called on a thread, because it takes milliseconds. `rejected`
    returns how many of them a response says that the receiver has not kept. Either may raise any exception.
    """

    signal: str
    count: int
    encode: Callable[[], bytes]
    rejected: Callable[[bytes], int]


class _Failure(Exception):
    """Why a batch was not taken, and after how many seconds it may be tried again, None if never."""

    def __init__(self, why: str, *, retry_after: float | None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Sender:
    """Sends batches one after another, and says how that goes: rarely in the log, and as a finding.

    `dropped` counts what was not taken. `endpoint` is a URL without the signal's path.
    """

    def __init__(self, *, endpoint: str, headers: Mapping[str, str], dropped: Counter) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._dropped = dropped
        self._failing: dict[str, str] = {}
        self._taken: set[str] = set()
        self._quiet_until: dict[str, float] = {}
        self._client = httpx2.AsyncClient(
            headers={**headers, "content-type": "application/x-protobuf", "accept-encoding": "identity"},
            # A redirect would send the headers, which have a key, to wherever it points.
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=TIMEOUT_SECONDS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def findings(self) -> list[Finding]:
        """Returns how sending goes, for each signal of which something was sent."""
        return [
            warning(
                "telemetry",
                f"the OTLP receiver does not take {signal}: {why}",
                "see that OTEL_EXPORTER_OTLP_ENDPOINT names it, that it runs, and that it takes OTLP over HTTP",
            )
            for signal, why in self._failing.items()
        ] + [ok("telemetry", f"the OTLP receiver takes {signal}") for signal in sorted(self._taken)]

    async def send(self, batch: Batch) -> None:
        """Returns once the batch was taken or dropped, in a minute or two at most."""
        try:
            data = await asyncio.to_thread(batch.encode)
        except Exception:
            logger.exception("telemetry cannot be encoded", signal=batch.signal)
            self._dropped.add(batch.signal, amount=batch.count)
            return
        for attempt in range(1, ATTEMPTS + 1):
            try:
                rejected = await self._post(batch, data)
            except _Failure as failure:
                self._failed(batch.signal, str(failure))
                if failure.retry_after is None or attempt == ATTEMPTS:
                    break
                await asyncio.sleep(min(failure.retry_after or RETRY_SECONDS * attempt, LONGEST_WAIT))
            else:
                self._took(batch.signal)
                self._dropped.add(batch.signal, amount=min(rejected, batch.count))
                return
        self._dropped.add(batch.signal, amount=batch.count)

    async def _post(self, batch: Batch, data: bytes) -> int:
        """Returns how much of a batch was not taken. Raises _Failure."""
        url = f"{self._endpoint}/v1/{batch.signal}"
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._client.stream("POST", url, content=data) as response,
            ):
                body = await _start_of(response)
        except TimeoutError:
            raise _Failure(f"no answer within {TIMEOUT_SECONDS:.0f} seconds", retry_after=0) from None
        except Exception as exc:
            # Its text may name the address, with a password.
            raise _Failure(type(exc).__name__, retry_after=0) from None
        if response.status_code == HTTPStatus.OK:
            try:
                return batch.rejected(body)
            except Exception:
                # It says of nothing that it was rejected.
                return 0
        again = _retry_after(response) if response.status_code in BUSY else None
        raise _Failure(f"status {response.status_code}", retry_after=again)

    def _failed(self, signal: str, why: str) -> None:
        self._failing[signal] = why
        self._taken.discard(signal)
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until.get(signal, now):
            self._quiet_until[signal] = now + QUIET_SECONDS
            logger.warning(
                "the OTLP receiver does not take what is sent; the rest is dropped until it does",
                signal=signal,
                error=why,
                remedy="check OTEL_EXPORTER_OTLP_ENDPOINT; metamorph_telemetry_dropped_total counts what is dropped",
            )

    def _took(self, signal: str) -> None:
        self._taken.add(signal)
        if self._failing.pop(signal, None) is not None:
            logger.info("the OTLP receiver takes what is sent again", signal=signal)


async def _start_of(response: httpx2.Response) -> bytes:
    """Returns a response's body, or its beginning if it has no end."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > LARGEST_RESPONSE:
            break
    return bytes(body)


def _retry_after(response: httpx2.Response) -> float:
    """Returns the seconds to wait that a response states, 0 if it does not."""
    stated = response.headers.get("retry-after", "")
    return float(stated) if stated.isascii() and stated.isdigit() else 0.0
