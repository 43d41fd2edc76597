"""An identity provider that signs anything, as no library would (RFC 7515, RFC 7518)."""

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import get_default_algorithms

ISSUER, AUDIENCE = "https://id.example", "metamorph"
# Long enough for HS512, so that nothing but the algorithm of such a token is wrong.
SECRET, OLDER_SECRET, RETIRED_SECRET = (name * 64 for name in "sop")
# The algorithm of each published key, by its id.
ALGORITHMS = {"r1": "RS256", "e1": "ES256", "d1": "EdDSA"}
_SIGNERS = get_default_algorithms()


class Keys:
    """Private keys by the ids under which the public ones are published."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys

    @classmethod
    def generate(cls) -> Self:
        """Generates a key for each algorithm that a key set may hold."""
        return cls(
            {
                "r1": rsa.generate_private_key(public_exponent=65537, key_size=2048),
                "e1": ec.generate_private_key(ec.SECP256R1()),
                "d1": ed25519.Ed25519PrivateKey.generate(),
            }
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` stored."""
        stored = json.loads(path.read_text())
        return cls({key_id: serialization.load_pem_private_key(pem.encode(), None) for key_id, pem in stored.items()})

    def save(self, path: Path) -> None:
        """Stores them for another process."""
        pems = {
            key_id: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
            for key_id, key in self._keys.items()
        }
        path.write_text(json.dumps(pems))

    def __getitem__(self, key_id: str) -> Any:
        return self._keys[key_id]

    def public(self, key_id: str) -> dict[str, Any]:
        """A public key as a JWK."""
        public = _SIGNERS[ALGORITHMS[key_id]].to_jwk(self._keys[key_id].public_key(), as_dict=True)
        return public | {"kid": key_id, "alg": ALGORITHMS[key_id], "use": "sig"}

    def published(self) -> dict[str, Any]:
        """The key set (RFC 7517)."""
        return {"keys": [self.public(key_id) for key_id in self._keys]}

    def valid(self) -> list[str]:
        """Returns valid tokens, by either secret and by each key."""
        by_keys = [token({"kid": key_id}, ALGORITHMS[key_id], self[key_id], jti=key_id) for key_id in self._keys]
        return [token(), token(key=OLDER_SECRET), *by_keys]


def claims(**changes: Any) -> dict[str, Any]:
    """Returns valid claims; `changes` are added, and removed where they are None."""
    now = int(time.time())
    values: dict[str, Any] = {"vault_id": "acme", "sub": "alice", "permissions": ["read"]}
    values |= {"iss": ISSUER, "aud": AUDIENCE}
    values |= {"iat": now - 1, "exp": now + 3600, "jti": "tok_1", **changes}
    return {name: value for name, value in values.items() if value is not None}


def token(
    header: Mapping[str, Any] | None = None, algorithm: Any = "HS256", key: Any = SECRET, by: str = "", **changes: Any
) -> str:
    """A token whose header says `algorithm` and which is signed with it, or with the algorithm `by`."""
    fields = {"alg": algorithm, "typ": "JWT", **(header or {})}
    fields = {name: value for name, value in fields.items() if value is not None}
    return raw(json.dumps(fields).encode(), json.dumps(claims(**changes)).encode(), by or algorithm, key)


def raw(header: bytes, payload: bytes, by: str = "HS256", key: Any = SECRET) -> str:
    """A token of any bytes with a valid signature."""
    signing = f"{encoded(header)}.{encoded(payload)}"
    key = key.encode() if isinstance(key, str) else key
    return f"{signing}.{encoded(_SIGNERS[by].sign(signing.encode(), key))}"


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decoded(part: str) -> bytes:
    """Reverses `encoded`."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
