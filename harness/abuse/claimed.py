"""Crafted tokens with a valid signature and invalid claims."""

import json
import time
from collections.abc import Iterator
from typing import Any

from harness.abuse.jose import AUDIENCE, ISSUER, claims, raw, token

Named = Iterator[tuple[str, str]]
HEADER = b'{"alg":"HS256","typ":"JWT"}'


def claimed() -> Named:
    """Returns a token for each class, by the name of the class."""
    for family in (encodings, json_texts, times, addressees, vaults, users, grants):
        yield from family()


def encodings() -> Named:
    """JSON is UTF-8 without a byte order mark (RFC 8259, section 8.1), and text is printable."""
    text = payload().decode()
    yield "UTF-8 with a mark", raw(HEADER, text.encode("utf-8-sig"))
    yield "header with a mark", raw(HEADER.decode().encode("utf-8-sig"), payload())
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield f"claims in {encoding}", raw(HEADER, text.encode(encoding))
        yield f"header in {encoding}", raw(HEADER.decode().encode(encoding), payload())
    yield "Latin-1", raw(HEADER, json.dumps(claims(sub="é"), ensure_ascii=False).encode("latin-1"))
    yield "overlong UTF-8", raw(HEADER, text.replace("alice", "al@ice").encode().replace(b"@", b"\xc0\x80"))
    yield "a surrogate in UTF-8", raw(HEADER, text.replace("alice", "al@ice").encode().replace(b"@", b"\xed\xa0\x80"))
    yield "a lone surrogate", raw(HEADER, text.replace("alice", r"al\ud800ice").encode())
    yield "surrogates the wrong way round", raw(HEADER, text.replace("alice", r"\udc00\ud800").encode())
    yield "compressed", raw(b'{"alg":"HS256","zip":"DEF"}', b"\xabV*-N-\x02\x00")


def json_texts() -> Named:
    """Invalid JSON, and JSON that parsers read differently."""
    text = payload().decode()
    inside = text[1:-1]
    for name, body in {
        "a claim twice": f'{{"vault_id":"evil",{inside}}}',
        "a claim twice, escaped": f'{{"vault\\u005fid":"evil",{inside}}}',
        "a claim twice, deeper": f'{{{inside},"x":{{"a":1,"a":2}}}}',
        "a comma at the end": f"{{{inside},}}",
        "a second object": text + text,
        "a comment": text + "/**/",
        "single quotes": text.replace('"', "'"),
        "a line end in text": text.replace("alice", "al\nice"),
        "NaN": f'{{{inside},"x":NaN}}',
        "-Infinity": f'{{{inside},"x":-Infinity}}',
        "an array": f"[{text}]",
        "text": json.dumps(text),
        "a number": "1",
        "null": "null",
        "nested without end": "[" * 3000,
        "a claim nested without end": f'{{{inside},"x":' + '{"a":' * 900,
        "a claim nested deeply": f'{{{inside},"x":' + "[" * 2500 + "]" * 2500 + "}",
        "a number of 4,400 digits": f'{{{inside},"x":{"9" * 4400}}}',
    }.items():
        yield f"claims: {name}", raw(HEADER, body.encode())
    for name, header in {
        "alg twice": b'{"alg":"none","alg":"HS256"}',
        "alg twice, escaped": b'{"\\u0061lg":"none","alg":"HS256"}',
        "an array": b'["HS256"]',
        "text": b'"HS256"',
        "null": b"null",
        "nested without end": b"[" * 3000,
        "NaN": b'{"alg":"HS256","x":NaN}',
        "a number of 4,400 digits": b'{"alg":"HS256","x":' + b"9" * 4400 + b"}",
    }.items():
        yield f"header: {name}", raw(header, payload())


def times() -> Named:
    """Times (RFC 7519, section 4.1): an expiry is required, and not too far ahead."""
    now = int(time.time())
    yield "no exp", token(exp=None)
    yield "exp null", _with("exp", "null")
    far = {"in 367 days": now + 367 * 86_400, "2^53": 2**53, "2^64": 2**64, "10^400": 10**400}
    past = {"expired": now - 31, "expired years ago": 1, "0": 0, "-1": -1, "a fraction, past": now - 31.5, "-0.0": -0.0}
    others = {"text": str(now + 60), "true": True, "an array": [now + 60], "an object": {"$gt": 0}, "empty": ""}
    for name, value in {**far, **past, **others}.items():
        yield f"exp {name}", token(exp=value)
    for name in ("1e999", "Infinity", "NaN", "9" * 4400):
        yield f"exp {name[:8]}", _with("exp", name)
    yield "nbf in the future", token(nbf=now + 600)
    yield "nbf in the future, a fraction", token(nbf=now + 600.5)
    yield "iat in the future", token(iat=now + 600)
    yield "iat after exp", token(iat=now - 5, exp=now - 10)
    for claim in ("nbf", "iat"):
        for name, value in {
            "text": "1",
            "words": "now",
            "true": True,
            "an array": [1],
            "negative": -1,
            "far": 2**64,
        }.items():
            yield f"{claim} {name}", _claiming(claim, value)
        yield f"{claim} 1e999", _with(claim, "1e999")
        yield f"{claim} null", _with(claim, "null")


def addressees() -> Named:
    """Audience and issuer (RFC 8725, sections 3.8 and 3.9)."""
    for claim, right in (("aud", AUDIENCE), ("iss", ISSUER)):
        wrong = {
            "another": "other",
            "a longer one": right + "x",
            "a shorter one": right[:-1],
            "capitals": right.upper(),
        }
        shapes = {
            "empty": "",
            "a number": 1,
            "true": True,
            "an object": {right: 1},
            "an empty array": [],
            "spaces": f" {right} ",
        }
        for name, value in {
            **wrong,
            **shapes,
            "nested": [[right]],
            "others": ["other", "x"],
            "a number too": [right, 1],
        }.items():
            yield f"{claim} {name}", _claiming(claim, value)
        yield f"no {claim}", _claiming(claim, None)
        yield f"{claim} null", _with(claim, "null")
    yield "iss an array", token(iss=[ISSUER])
    yield "iss and aud swapped", token(iss=AUDIENCE, aud=ISSUER)


def vaults() -> Named:
    """A vault id matches `[A-Za-z0-9][A-Za-z0-9._:-]{0,127}` and is given once."""
    for value in ("", "a/b", "..", ".a", "a b", " a", "acme\n", "acme\0", "é", "*", "a%00", "a'--", "a" * 129):
        yield f"vault {value!r:.20}", token(vault_id=value)
    for other in (7, True, ["acme"], {"acme": 1}, 1.5):
        yield f"vault {json.dumps(other)}", token(vault_id=other)
    yield "no vault", token(vault_id=None)
    yield "vault null", _with("vault_id", "null")
    yield "two vaults", token(vaultId="evil")
    yield "a vault and null", raw(HEADER, json.dumps(claims() | {"vaultId": None}).encode())
    yield "a vault and a list", token(vaultId=["acme"])


def users() -> Named:
    """A user is printable text."""
    for name, value in {
        "empty": "", "spaces": "   ", "NUL": "a\0b", "a line end": "a\nb", "zero width": "a\u200bb",
        "right to left": "a\u202eb", "a mark": "\ufeffa", "a tag": "a\U000e0041", "too long": "u" * 257,
        "a number": 7, "a list": ["a"], "true": True,
    }.items():  # fmt: skip
        yield f"user {name}", token(sub=value)
        yield f"user_id {name} beside sub", token(user_id=value)
    yield "no user", token(sub=None)
    yield "user null", _with("sub", "null")


def grants() -> Named:
    """Permissions, and the caller's other attributes."""
    for name, value in {
        "text": "read", "of numbers": [1], "nested": [["read"]], "an object": {"read": True}, "true": True,
        "a number": 1, "with null": ["read", None],
    }.items():  # fmt: skip
        yield f"permissions {name}", token(permissions=value)
    yield "permissions null", _with("permissions", "null")
    for name, scope in {"a list": ["read"], "a number": 1, "an object": {"read": 1}}.items():
        yield f"scope {name}", token(permissions=None, scope=scope)
    for claim, longest in (("email", 320), ("jti", 256)):
        for name, value in {"a list": ["a"], "a number": 1, "NUL": "a\0", "too long": "a" * (longest + 1)}.items():
            yield f"{claim} {name}", _claiming(claim, value)
    yield "jti empty", token(jti="")


def payload() -> bytes:
    """Valid claims as JSON."""
    return json.dumps(claims()).encode()


def _claiming(name: str, value: Any) -> str:
    changes: dict[str, Any] = {name: value}
    return token(**changes)


def _with(name: str, value: str) -> str:
    """A token in which a claim is this JSON, valid or not."""
    others = json.dumps(claims(**{name: None}))[1:-1]
    return raw(HEADER, f'{{{others},"{name}":{value}}}'.encode())
