"""Time stamps of heads (RFC 3161): what is stamped, and whether a token is of it, by an authority that is trusted.

A token is the answer of an authority, a TimeStampResp, over any number of digests that `HeadsDigest` makes.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import rfc3161_client
from cryptography.x509 import load_pem_x509_certificates

HEADS = b"metamorph audit heads 1"
# The tag of the certificates in SignedData (RFC 5652, section 5.1).
CERTIFICATES = 0xA0


class TimestampInvalid(Exception):
    """Raised if a token is none, is not of what it is said to be of, or is not by an authority that is trusted."""


class TimestampRequest:
    """A request to stamp digests, with a nonce. `body` is what is sent."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        builder = rfc3161_client.TimestampRequestBuilder(hash_algorithm=rfc3161_client.HashAlgorithm.SHA256)
        self._digests = digests
        self._request = builder.data(_stamped(digests)).build()
        self.body = self._request.as_bytes()

    def verified(self, token: bytes, trusted: "TrustedCertificates") -> datetime:
        """Returns the time of a token that answers this request. Raises TimestampInvalid."""
        return trusted.verified(token, self._digests, nonce=self._request.nonce)


class TrustedCertificates:
    """The certificates of authorities that are trusted, from a PEM file. Raises OSError, and ValueError."""

    def __init__(self, path: Path) -> None:
        self._certificates = load_pem_x509_certificates(path.read_bytes())

    def verified(self, token: bytes, digests: Sequence[bytes], *, nonce: int | None = None) -> datetime:
        """Returns when digests were stamped, if the token says so. Raises TimestampInvalid.

        Certificates need to have been valid then, not now. They are not looked up in lists of revoked ones. Without a
        nonce, that of the token is not looked at.
        """
        # Also what is no Exception, such as a panic of its library: an authority chooses the bytes.
        try:
            response = rfc3161_client.decode_timestamp_response(_in_order(token))
        except BaseException as exc:
            raise TimestampInvalid(f"it cannot be read ({_shown(exc)})") from None
        try:
            builder = rfc3161_client.VerifierBuilder(roots=list(self._certificates), nonce=nonce)
            builder.build().verify_message(response, _stamped(digests))
            return response.tst_info.gen_time
        except BaseException as exc:
            _refuse(response, exc)


def _stamped(digests: Sequence[bytes]) -> bytes:
    """Returns the bytes that are stamped: all digests, of 32 bytes each."""
    return HEADS + b"".join(digests)


def _in_order(token: bytes) -> bytes:
    """Returns a token whose certificates are in the order of DER, which no signature covers and OpenSSL does not keep.

    One that cannot be read is returned as it is.
    """
    try:
        # TimeStampResp, after its status: ContentInfo, after its type: SignedData, after its third field.
        at = _after(token, _inside(token, 0)[0], 1)
        at = _after(token, _inside(token, at)[0], 1)
        at = _after(token, _inside(token, _inside(token, at)[0])[0], 3)
        place, end = _inside(token, at)
        found, certificates = place, list[bytes]()
        while token[at] == CERTIFICATES and found < end:
            after = _after(token, found, 1)
            certificates.append(token[found:after])
            found = after
    except IndexError:
        return token
    return token[:place] + b"".join(sorted(certificates)) + token[place + sum(map(len, certificates)) :]


def _inside(data: bytes, at: int) -> tuple[int, int]:
    """Returns where the content of an element of DER begins and ends. Raises IndexError."""
    size = data[at + 1]
    count = size & 0x7F if size & 0x80 else 0
    begin = at + 2 + count
    end = begin + (int.from_bytes(data[at + 2 : begin]) if count else size)
    if end > len(data):
        raise IndexError
    return begin, end


def _after(data: bytes, at: int, count: int) -> int:
    """Returns where the element begins that follows `count` others. Raises IndexError."""
    for _ in range(count):
        at = _inside(data, at)[1]
    return at


def _refuse(response: Any, exc: BaseException) -> NoReturn:
    try:
        refused = response.status != rfc3161_client.PKIStatus.GRANTED
        why = f"the authority refused: {_line(' '.join(response.status_string))}" if refused else _shown(exc)
    except BaseException:
        why = _shown(exc)
    raise TimestampInvalid(why) from None


def _shown(exc: BaseException) -> str:
    """Returns what a library says, in a line, and of OpenSSL's errors only the reason of the last."""
    text = str(exc)
    found = re.search(r'Verify error: ([^"]+)', text) or re.search(r'.*reason: "([^"]+)"', text)
    return _line(text if found is None else found[1])


def _line(text: str) -> str:
    """Returns a text, which an authority may have chosen, as it can be shown in a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)[:200]
