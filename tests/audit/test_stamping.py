"""Time stamps of heads by an authority, and an authority that is slow, down or hostile."""

import asyncio
import base64
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from metamorphd.audit import authority as asking
from metamorphd.audit import stamping
from metamorphd.audit.anchoring import Anchoring
from metamorphd.audit.authority import Authority
from metamorphd.audit.stamping import AuthorityStamping
from metamorphd.audit.timestamps import TimestampInvalid, TimestampRequest, TrustedCertificates
from metamorphd.chain import Head, HeadsDigest
from metamorphd.clock import Clock
from metamorphd.errors import StartupRefused
from metamorphd.keys.audit import make_chain
from metamorphd.models.finding import FindingStatus
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from structlog.testing import capture_logs

from tests.support.engines import Engine
from tests.support.fakes.timestamp_authority import SIGNING, STAMPING, TimestampAuthority
from tests.support.fakes.web import FakeWeb
from tests.support.rows import new_session, scope_of
from tests.support.serving import serving

MINUTE = 60_000_000
DIGESTS = [hashlib.sha256(text).digest() for text in (b"one", b"two")]

Made = Callable[[TimestampAuthority, bytes], bytes]


class Later(Clock):
    """The time, some of it ahead."""

    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


@pytest.fixture
async def tsa(tmp_path: Path) -> AsyncIterator[TimestampAuthority]:
    async with TimestampAuthority(tmp_path) as made:
        yield made


@pytest.fixture
async def made(tsa: TimestampAuthority) -> AsyncIterator[AuthorityStamping]:
    clock = Clock()
    authority = Authority(url=tsa.url, trusted=TrustedCertificates(tsa.roots), clock=clock)
    stamps = AuthorityStamping(authority=authority, clock=clock, interval_minutes=10)
    yield stamps
    await stamps.aclose()


async def worked(stamps: AuthorityStamping) -> list[Any]:
    """Returns the lines that are logged."""
    with capture_logs() as lines:
        await stamps.work()
    return lines


async def test_a_token_is_over_all_digests_that_wait_and_anybody_can_verify_it(
    tsa: TimestampAuthority, made: AuthorityStamping
) -> None:
    for digest in DIGESTS:
        made.add(digest)
    (line,) = await worked(made)
    assert (line["event"], line["digests"]) == ("audit timestamp", [digest.hex() for digest in DIGESTS])
    trusted, token = TrustedCertificates(tsa.roots), base64.b64decode(line["stamp"])
    assert abs(trusted.verified(token, DIGESTS).timestamp() - Clock().now() / 1e6) < 60
    for others in (DIGESTS[:1], DIGESTS[::-1], []):
        with pytest.raises(TimestampInvalid, match="Mismatch"):
            trusted.verified(token, others)
    assert len(tsa.queries) == 1
    assert made.findings()[0].status is FindingStatus.OK


async def test_nothing_is_asked_for_while_nothing_waits(tsa: TimestampAuthority, made: AuthorityStamping) -> None:
    assert await worked(made) == []
    assert (tsa.queries, made.findings(), made.gauges[stamping.GAUGE][1]()) == ([], [], 0.0)


def other_nonce(tsa: TimestampAuthority, _: bytes) -> bytes:
    return tsa.stamp(TimestampRequest(DIGESTS).body)


def other_imprint(tsa: TimestampAuthority, query: bytes) -> bytes:
    # The request's, with the nonce, and another hash.
    imprint = hashlib.sha256(b"metamorph audit heads 1" + b"".join(DIGESTS)).digest()
    assert query.count(imprint) == 1
    return tsa.stamp(query.replace(imprint, bytes(32)))


def changed_signature(tsa: TimestampAuthority, query: bytes) -> bytes:
    token = bytearray(tsa.stamp(query))
    token[-1] ^= 1
    return bytes(token)


def refusal(text: bytes) -> bytes:
    """Returns a refusal with a text, of a few bytes."""
    said = b"\x0c" + bytes([len(text)]) + text
    status = b"\x02\x01\x02\x30" + bytes([len(said)]) + said
    return b"\x30" + bytes([len(status) + 2]) + b"\x30" + bytes([len(status)]) + status


HOSTILE: dict[str, tuple[Made, str]] = {
    "wrong nonce": (other_nonce, "Nonce mismatch"),
    "wrong imprint": (other_imprint, "Mismatch between messages"),
    "expired certificate": (lambda tsa, query: tsa.stamp(query, hours=(-3, -2)), "certificate has expired"),
    "certificate of later": (lambda tsa, query: tsa.stamp(query, hours=(1, 2)), "certificate is not yet valid"),
    "certificate for code": (lambda tsa, query: tsa.stamp_as(query, SIGNING), "unsuitable certificate purpose"),
    "certificate for both": (lambda tsa, query: tsa.stamp_as(query, STAMPING + SIGNING), "unsuitable certificate"),
    "usage not critical": (lambda tsa, query: tsa.stamp_as(query, STAMPING, critical=False), "unsuitable certificate"),
    "other signature": (changed_signature, "signature"),
    "cut": (lambda tsa, query: tsa.stamp(query)[:-10], "cannot be read"),
    "nothing": (lambda *_: b"", "cannot be read"),
    "the query": (lambda _, query: query, "cannot be read"),
    "a refusal": (lambda *_: bytes.fromhex("30053003020102"), "refused"),
    "a refusal with colours": (lambda *_: refusal(b"\x1b[31mred\n"), "the authority refused:  [31mred "),
    "huge": (lambda *_: bytes(20_000), "more than 16,384 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_token_that_is_not_good_is_not_taken_and_the_operator_learns_why(
    tsa: TimestampAuthority, made: AuthorityStamping, name: str
) -> None:
    make, why = HOSTILE[name]

    async def answer(query: bytes) -> Response:
        return Response(await asyncio.to_thread(make, tsa, query))

    tsa.answer = answer
    for digest in DIGESTS:
        made.add(digest)
    (line,) = await worked(made)
    assert (line["log_level"], why in line["error"]) == ("warning", True), line
    (finding,) = made.findings()
    assert (finding.status, why in finding.what) == (FindingStatus.WARNING, True)
    assert made.gauges[stamping.GAUGE][1]() > 0
    assert await made.stamp(DIGESTS[0]) == ""


async def test_what_could_sign_for_time_stamps_is_taken_so_signed(
    tsa: TimestampAuthority, made: AuthorityStamping
) -> None:
    async def answer(query: bytes) -> Response:
        return Response(await asyncio.to_thread(tsa.stamp_as, query, STAMPING))

    tsa.answer = answer
    made.add(DIGESTS[0])
    (line,) = await worked(made)
    assert line["event"] == "audit timestamp"


async def test_certificates_in_any_order_are_taken(tsa: TimestampAuthority, made: AuthorityStamping) -> None:
    async def answer(query: bytes) -> Response:
        return Response(await asyncio.to_thread(tsa.stamp, query, chain=True))

    tsa.answer = answer
    made.add(DIGESTS[0])
    (line,) = await worked(made)
    assert line["event"] == "audit timestamp"
    assert TrustedCertificates(tsa.roots).verified(base64.b64decode(line["stamp"]), DIGESTS[:1])


def test_bytes_that_are_no_token_are_refused_whatever_they_are(tsa: TimestampAuthority) -> None:
    randomness, trusted = random.Random(1), TrustedCertificates(tsa.roots)  # noqa: S311, repeatable
    token = tsa.stamp(TimestampRequest(DIGESTS).body, chain=True)
    trusted.verified(token, DIGESTS)
    for number in range(2_000):
        changed = bytearray(token[: randomness.randrange(len(token))] if number % 2 else token)
        for _ in range(randomness.randint(1, 8)):
            if changed:
                changed[randomness.randrange(min(len(changed), 300))] = randomness.randrange(256)
        # Some bytes are covered by nothing, such as the version.
        with contextlib.suppress(TimestampInvalid):
            trusted.verified(bytes(changed), DIGESTS)
        with pytest.raises(TimestampInvalid):
            trusted.verified(bytes(changed), DIGESTS[:1])


async def test_a_token_by_another_authority_is_not_taken(
    tsa: TimestampAuthority, made: AuthorityStamping, tmp_path: Path
) -> None:
    other = TimestampAuthority(tmp_path, "other")

    async def answer(query: bytes) -> Response:
        return Response(await asyncio.to_thread(other.stamp, query))

    tsa.answer = answer
    made.add(DIGESTS[0])
    (line,) = await worked(made)
    assert "certificate" in line["error"]


async def test_a_redirect_is_not_followed(tsa: TimestampAuthority, made: AuthorityStamping) -> None:
    async def elsewhere(request: Request) -> Response:
        return Response(await asyncio.to_thread(tsa.stamp, await request.body()))

    async with FakeWeb(elsewhere) as web:

        async def answer(_: bytes) -> Response:
            return RedirectResponse(web.url)

        tsa.answer = answer
        made.add(DIGESTS[0])
        (line,) = await worked(made)
        assert (line["error"], web.requests) == ("status 307", [])


async def test_an_authority_that_is_slow_or_sends_for_ever_takes_seconds(
    tsa: TimestampAuthority, made: AuthorityStamping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 0.3)

    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b"0"
            await asyncio.sleep(0.05)

    async def answer(_: bytes) -> Response:
        return StreamingResponse(drops())

    tsa.answer = answer
    made.add(DIGESTS[0])
    async with asyncio.timeout(5):
        (line,) = await worked(made)
    assert line["error"] == "no answer within 0 seconds"


async def test_an_authority_whose_clock_differs_is_not_believed(tsa: TimestampAuthority) -> None:
    clock = Later()
    authority = Authority(url=tsa.url, trusted=TrustedCertificates(tsa.roots), clock=clock)
    stamps = AuthorityStamping(authority=authority, clock=clock, interval_minutes=10)
    clock.ahead = 20 * MINUTE
    stamps.add(DIGESTS[0])
    (line,) = await worked(stamps)
    assert "its clock and that of this server differ by 1,2" in line["error"]
    await stamps.aclose()


async def test_what_waits_is_stamped_once_the_authority_is_back_and_no_sooner_than_asked(
    tsa: TimestampAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LARGEST_DIFFERENCE", 10_000)
    monkeypatch.setattr(stamping, "TOKEN_DIGESTS", 2)
    monkeypatch.setattr(stamping, "WAITING_DIGESTS", 3)
    clock = Later()
    authority = Authority(url=tsa.url, trusted=TrustedCertificates(tsa.roots), clock=clock)
    stamps = AuthorityStamping(authority=authority, clock=clock, interval_minutes=10)

    async def answer(_: bytes) -> Response:
        return Response(status_code=503)

    tsa.answer = answer
    numbered = [hashlib.sha256(b"%d" % number).digest() for number in range(4)]
    for digest in numbered:
        stamps.add(digest)
    assert [line["error"] for line in await worked(stamps)] == ["status 503"]
    # Neither at once, nor with a line each time.
    assert await worked(stamps) == []
    clock.ahead = 6 * MINUTE
    assert await worked(stamps) == []
    assert len(tsa.queries) == 2
    clock.ahead = 12 * MINUTE
    tsa.answer = None
    again, first = await worked(stamps)
    # The oldest had to go.
    assert (again["event"], first["digests"]) == (
        "the authority gives time stamps again",
        [digest.hex() for digest in numbered[1:3]],
    )
    assert await worked(stamps) == []
    clock.ahead = 23 * MINUTE
    (line,) = await worked(stamps)
    assert line["digests"] == [numbered[3].hex()]
    for number in range(2):
        stamps.add(DIGESTS[number])
    # As many as a token is for do not wait.
    assert len(await worked(stamps)) == 1
    await stamps.aclose()


async def test_lines_of_heads_are_stamped_together(
    engine: Engine, tmp_path: Path, tsa: TimestampAuthority, made: AuthorityStamping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metamorphd.audit.anchoring.LINE_HEADS", 2)
    async with engine.database(tmp_path, chain=make_chain(["k" * 32])) as database:
        for number in range(5):
            await new_session(database, scope_of(f"vault-{number}"), now=Clock().now())
        with capture_logs() as lines:
            await Anchoring(database=database, clock=Clock(), stamping=made).work()
    *heads, stamped = lines
    assert [len(line["heads"]) for line in heads] == [2, 2, 1]
    for line, digest in zip(heads, stamped["digests"], strict=True):
        expected = HeadsDigest()
        for vault, revision, mac in line["heads"]:
            expected.add(vault, Head(revision, bytes.fromhex(mac)))
        assert digest == expected.digest.hex()
    assert len(tsa.queries) == 1


@pytest.mark.parametrize("content", [None, b"", b"no certificate\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
async def test_a_server_whose_certificates_cannot_be_read_does_not_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_bytes(content)
    settings = {"audit_key": "k" * 32, "audit_tsa_url": "http://127.0.0.1:9", "audit_tsa_certificates": path}
    with pytest.raises(StartupRefused, match=r"AUDIT_TSA_CERTIFICATES .* cannot be read as certificates"):
        async with serving(tmp_path, **settings):
            pass
