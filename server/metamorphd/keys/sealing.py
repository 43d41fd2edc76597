"""Authenticated encryption that is bound to a place, and committed to its key.

Sealed bytes are: format (1), algorithm (1), nonce (12), commitment (32), ciphertext and tag (16 more than the plain
text). From the key and the nonce, HKDF-SHA-256 (RFC 5869) makes the key of AES-256-GCM (NIST SP 800-38D) and the
commitment: GCM alone opens one ciphertext under several keys, to different plain texts (Albertini et al., 2022).
"""

import hmac
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
NONCE_BYTES, COMMITMENT_BYTES, TAG_BYTES = 12, 32, 16
# Format 1: as above. Algorithm 1: AES-256-GCM.
HEADER = bytes([1, 1])
NONCE_AT = len(HEADER)
COMMITMENT_AT = NONCE_AT + NONCE_BYTES
CIPHERTEXT_AT = COMMITMENT_AT + COMMITMENT_BYTES
OVERHEAD_BYTES = CIPHERTEXT_AT + TAG_BYTES
LENGTH_BYTES = 4

# Says where sealed bytes are: table and column, vault, record, version, and the ID of the key.
Binding = tuple[str, ...]


class SealBroken(Exception):
    """The bytes were not sealed with this key for this place, or were changed."""


def seal(key: bytes, plain: bytes, *, binding: Binding, nonce: bytes) -> bytes:
    """Returns `plain` encrypted, `OVERHEAD_BYTES` longer.

    `key` has 32 bytes. `nonce` has 12, which are random and never used again with this key.
    """
    cipher, commitment = _derived(key, nonce)
    return HEADER + nonce + commitment + cipher.encrypt(nonce, plain, _associated(binding))


def unseal(key: bytes, sealed: bytes, *, binding: Binding) -> bytes:
    """Returns what was sealed with the same key and the same binding. Raises SealBroken."""
    if len(sealed) < OVERHEAD_BYTES or sealed[:NONCE_AT] != HEADER:
        raise SealBroken
    nonce = sealed[NONCE_AT:COMMITMENT_AT]
    cipher, commitment = _derived(key, nonce)
    if not hmac.compare_digest(commitment, sealed[COMMITMENT_AT:CIPHERTEXT_AT]):
        raise SealBroken
    try:
        return cipher.decrypt(nonce, sealed[CIPHERTEXT_AT:], _associated(binding))
    except InvalidTag:
        raise SealBroken from None


def derived(key: bytes, *, purpose: bytes, salt: bytes | None = None, length: int = KEY_BYTES) -> bytes:
    """Returns key material for one purpose (HKDF-SHA-256)."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=b"metamorph " + purpose).derive(key)


def _derived(key: bytes, nonce: bytes) -> tuple[AESGCM, bytes]:
    made = derived(key, purpose=b"sealing", salt=nonce, length=KEY_BYTES + COMMITMENT_BYTES)
    return AESGCM(made[:KEY_BYTES]), made[KEY_BYTES:]


def _associated(binding: Iterable[str]) -> bytes:
    """Returns the associated data. Each part follows its length: joined plainly, different bindings could be equal."""
    parts = (part.encode() for part in binding)
    return HEADER + b"".join(len(part).to_bytes(LENGTH_BYTES) + part for part in parts)
