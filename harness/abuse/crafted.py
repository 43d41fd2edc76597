"""Classes of crafted tokens with one fault each: from RFC 8725, from CVEs of JWT libraries, and more."""

import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.utils import raw_to_der_signature

from harness.abuse.claimed import claimed, payload
from harness.abuse.jose import RETIRED_SECRET, SECRET, Keys, claims, decoded, encoded, raw, token

Named = Iterator[tuple[str, str]]


def crafted(keys: Keys) -> dict[str, str]:
    """Returns a token for each class, by the name of the class; `keys` are the published ones."""
    families = [
        algorithms(keys), confusions(keys), key_ids(keys), own_keys(keys), signatures(keys), kinds(keys),
        spellings(), claimed(),
    ]  # fmt: skip
    named = [pair for family in families for pair in family]
    assert len(dict(named)) == len(named), "two classes have one name"
    return dict(named)


def algorithms(keys: Keys) -> Named:
    """CVE-2015-9235 and its kin: the token chooses how it is verified."""
    for name in ("none", "None", "NONE", "nOnE"):
        yield f"alg {name}, no signature", token(algorithm=name, by="none", key=None)
        yield f"alg {name}, signed", token(algorithm=name, by="HS256")
    for name in ("hs256", "HS256 ", "", "HS2560", "HMAC-SHA256", "Ed25519", "A128KW", "dir"):
        yield f"alg {name!r}", token(algorithm=name, by="HS256")
    yield "no alg", token(algorithm=None, by="HS256")
    yield "alg null", raw(b'{"alg":null,"typ":"JWT"}', payload())
    for value in (["HS256"], 256, True, {"HS256": 1}):
        yield f"alg {json.dumps(value)}", token(algorithm=value, by="HS256")
    for name in ("HS384", "HS512"):
        yield f"{name} by our secret", token(algorithm=name)
        yield f"{name} by our secret under a key's id", token({"kid": "r1"}, name)
    for name in ("RS384", "RS512", "PS256", "PS384", "PS512"):
        yield f"{name} by the key for RS256", token({"kid": "r1"}, name, keys["r1"])


def confusions(keys: Keys) -> Named:
    """A public key must not be used as a secret (CVE-2016-10555, CVE-2022-29217)."""
    for key_id in ("r1", "e1", "d1"):
        public = keys[key_id].public_key()
        forms = {
            "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "PEM, trimmed": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
            "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "OpenSSH": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
            "JWK": json.dumps(keys.public(key_id)).encode(),
        }
        for name, secret in forms.items():
            yield f"{key_id}'s public key as a secret, {name}", token({"kid": key_id}, key=secret)
    yield "RS256 named, signed by our secret", token({"kid": "r1"}, "RS256", by="HS256")
    yield "ES256 named, signed by our secret", token({"kid": "e1"}, "ES256", by="HS256")


def key_ids(keys: Keys) -> Named:
    """A key id is looked up, never opened as a file, queried or fetched."""
    yield "ES256 under the id of the RSA key", token({"kid": "r1"}, "ES256", keys["e1"])
    yield "RS256 under the id of the EC key", token({"kid": "e1"}, "RS256", keys["r1"])
    yield "EdDSA under the id of the EC key", token({"kid": "e1"}, "EdDSA", keys["d1"])
    yield "no kid", token(algorithm="RS256", key=keys["r1"])
    for value in ("", "R1", "r1 ", "r1\0", "k" * 4000, "é", ["r1"], {"r1": 1}, 1, True):
        name = f"kid {json.dumps(value)[:16]}"
        yield name, token({"kid": value}, "RS256", keys["r1"])
    for value in ("../../../../dev/null", "/dev/null", "file:///dev/null", "x' UNION SELECT '", "r1;id", "$(id)"):
        yield f"kid {value}, empty secret", token({"kid": value}, "RS256", key="", by="HS256")


def own_keys(keys: Keys) -> Named:
    """Keys that come with the token or from a place it names (RFC 8725, section 3.10)."""
    stranger = Keys.generate()
    embedded: dict[str, Any] = {
        "jwk": stranger.public("e1"),
        "x5c": [encoded(b"certificate")],
        "jku": "https://evil.invalid/keys",
        "x5u": "https://evil.invalid/certificate",
    }
    for name, value in embedded.items():
        yield f"a key of its own by {name}", token({"kid": "e1", name: value}, "ES256", stranger["e1"])
        yield f"a key of its own by {name}, no kid", token({name: value}, "ES256", stranger["e1"])
    yield "a secret of its own by jwk", token({"jwk": {"kty": "oct", "k": encoded(b"x" * 64)}}, key="x" * 64)
    for key_id, name in (("r1", "RS256"), ("e1", "ES256"), ("d1", "EdDSA")):
        yield f"a stranger's {name} key", token({"kid": key_id}, name, stranger[key_id])
    for name, secret in {
        "empty": "",
        "retired": RETIRED_SECRET,
        "short": SECRET[:32],
        "with a line end": SECRET + "\n",
    }.items():
        yield f"another secret, {name}", token(key=secret)


def signatures(keys: Keys) -> Named:
    """Invalid signatures."""
    for name, made in {
        "HS256": token(),
        "RS256": token({"kid": "r1"}, "RS256", keys["r1"]),
        "ES256": token({"kid": "e1"}, "ES256", keys["e1"]),
        "EdDSA": token({"kid": "d1"}, "EdDSA", keys["d1"]),
    }.items():
        head, _, signature = made.rpartition(".")
        right = decoded(signature)
        yield f"{name} without a signature", f"{head}."
        yield f"{name} signature of zeros", f"{head}.{encoded(bytes(len(right)))}"
        yield f"{name} signature of ones", f"{head}.{encoded(bytes([255]) * len(right))}"
        yield f"{name} signature cut by a byte", f"{head}.{encoded(right[:-1])}"
        yield f"{name} signature of half the length", f"{head}.{encoded(right[: len(right) // 2])}"
        yield f"{name} signature of one byte", f"{head}.{encoded(right[:1])}"
        yield f"{name} signature and a byte", f"{head}.{encoded(right + bytes(1))}"
        yield f"{name} signature twice", f"{head}.{encoded(right * 2)}"
        yield f"{name} signature as hexadecimal", f"{head}.{encoded(right.hex().encode())}"
        changed = encoded(json.dumps(claims(vault_id="evil")).encode())
        yield f"{name} signature of another token", f"{head.partition('.')[0]}.{changed}.{signature}"
    head, _, signature = token({"kid": "e1"}, "ES256", keys["e1"]).rpartition(".")
    right, order = decoded(signature), 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    # (0, 0) is CVE-2022-21449; the order is 0 again.
    yield "ES256 signature of the order", f"{head}.{encoded(order.to_bytes(32) * 2)}"
    yield "ES256 signature as DER", f"{head}.{encoded(raw_to_der_signature(right, ec.SECP256R1()))}"
    yield "ES256 signature, halves swapped", f"{head}.{encoded(right[32:] + right[:32])}"


def kinds(keys: Keys) -> Named:
    """Tokens of another kind (RFC 8725, section 3.11), and unknown extensions."""
    for kind in ("JWE", "dpop+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "", 5, ["JWT"], None):
        yield f"typ {json.dumps(kind)}", raw(json.dumps({"alg": "HS256", "typ": kind}).encode(), payload())
    for crit in (["exp"], ["b64"], [], "exp", None):
        yield f"crit {json.dumps(crit)}", raw(json.dumps({"alg": "HS256", "crit": crit}).encode(), payload())
    yield "b64 false", token({"b64": False, "crit": ["b64"]})
    yield "b64 true", token({"b64": True})
    yield "a token within a token", raw(b'{"alg":"HS256","cty":"JWT"}', token().encode())
    yield (
        "five parts, as if encrypted",
        ".".join(encoded(part) for part in (b'{"alg":"dir","enc":"A256GCM"}', *[b"x" * 12] * 4)),
    )
    head, body, signature = token().split(".")
    yield "JSON serialisation", json.dumps({"protected": head, "payload": body, "signature": signature})
    yield "JSON serialisation, encoded", encoded(json.dumps({"protected": head, "payload": body}).encode())
    yield "opaque", "an-opaque-token"


def spellings() -> Named:
    """Valid parts in another encoding than required (RFC 7515, section 2)."""
    made = next(made for made in (token(jti=str(number)) for number in range(1000)) if "-" in made and "_" in made)
    head, body, signature = made.split(".")
    yield "standard alphabet", made.replace("-", "+").replace("_", "/")
    for name, parts in {"header": (0,), "claims": (1,), "signature": (2,), "all parts": (0, 1, 2)}.items():
        padded = [p + "=" * (-len(p) % 4 or 4) if i in parts else p for i, p in enumerate((head, body, signature))]
        yield f"padded {name}", ".".join(padded)
    yield "bits beyond the last byte", f"{head}.{body}.{_beyond(signature)}"
    odd = next(odd for odd in (token(jti="x" * n) for n in range(3)) if len(odd.split(".")[1]) % 4)
    yield "bits beyond the last byte of the claims", ".".join([(p := odd.split("."))[0], _beyond(p[1]), p[2]])
    for name, sign in {
        "space": " ",
        "line end": "\n",
        "NUL": "\0",
        "tab": "\t",
        "comma": ",",
        "é": "é",
        "。": "。",
    }.items():
        yield f"{name} within", f"{head}.{body[:8]}{sign}{body[8:]}.{signature}"
        yield f"{name} before", sign + made
        yield f"{name} and more after", f"{made}{sign}{made}"
    yield "percent", made.replace(".", "%2e")
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{made}.{signature}"
    yield "a dot before", f".{made}"
    yield "a dot after", f"{made}."
    yield "dots alone", ".."
    yield "no header", f".{body}.{signature}"
    yield "no claims", f"{head}..{signature}"
    yield "parts in another order", f"{body}.{head}.{signature}"
    yield "a letter too many", f"{head}.{body}A.{signature}"
    yield "9,000 characters", token(padding="x" * 9000)
    yield "9,000 dots", "." * 9000


def _beyond(part: str) -> str:
    """Another encoding of the same bytes: the last character has unused bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = alphabet[alphabet.index(part[-1]) ^ 1]
    assert decoded(part[:-1] + other) == decoded(part)
    return part[:-1] + other
