"""Sealed bytes can be opened with their key, in their place, as they were, and not otherwise."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import assume, given
from hypothesis import strategies as st
from metamorphd.keys import sealing
from metamorphd.keys.sealing import OVERHEAD_BYTES, Binding, SealBroken, seal, unseal

KEY = bytes(range(32))
NONCE = bytes(12)
HERE = ("secret_versions.sealed_value", "acme", "sec_1", "name", "1", "dek_1")
bindings = st.lists(st.text(max_size=4), min_size=1, max_size=4).map(tuple)


def opens(key: bytes, sealed: bytes, binding: Binding) -> bool:
    try:
        unseal(key, sealed, binding=binding)
    except SealBroken:
        return False
    return True


@given(plain=st.binary(max_size=300), nonce=st.binary(min_size=12, max_size=12), binding=bindings)
def test_what_is_sealed_can_be_opened(plain: bytes, nonce: bytes, binding: Binding) -> None:
    sealed = seal(KEY, plain, binding=binding, nonce=nonce)
    assert len(sealed) == len(plain) + OVERHEAD_BYTES
    assert unseal(KEY, sealed, binding=binding) == plain


@given(binding=bindings, other=bindings)
def test_it_cannot_be_opened_in_another_place(binding: Binding, other: Binding) -> None:
    assume(binding != other)
    assert not opens(KEY, seal(KEY, b"value", binding=binding, nonce=NONCE), other)


def test_places_whose_parts_join_to_the_same_text_differ() -> None:
    assert not opens(KEY, seal(KEY, b"value", binding=("a", "bc"), nonce=NONCE), ("ab", "c"))


def test_no_bit_of_it_can_be_changed() -> None:
    sealed = seal(KEY, b"value", binding=HERE, nonce=NONCE)
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        assert not opens(KEY, bytes(changed), HERE)


def test_neither_a_part_of_it_nor_more_than_it_can_be_opened() -> None:
    sealed = seal(KEY, b"value", binding=HERE, nonce=NONCE)
    for changed in (*(sealed[:length] for length in range(len(sealed))), sealed + b"\0"):
        assert not opens(KEY, changed, HERE)


def test_another_key_opens_nothing_even_where_gcm_would(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal(KEY, b"value", binding=HERE, nonce=NONCE)
    # A ciphertext that is valid under both keys can be made for GCM. Here, every one is.
    monkeypatch.setattr(sealing, "AESGCM", Agreeing)
    assert opens(KEY, sealed, HERE)
    assert not opens(bytes(32), sealed, HERE)


class Agreeing:
    """A cipher without authentication."""

    def __init__(self, key: bytes) -> None:
        """Takes any key."""

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        return b"value"


def test_the_cipher_is_aes_256_gcm_under_a_key_that_rfc_5869_derives() -> None:
    nonce = bytes(range(12))
    sealed = seal(KEY, b"value", binding=("a", "bc"), nonce=nonce)
    made = HKDF(algorithm=SHA256(), length=64, salt=nonce, info=b"metamorph sealing").derive(KEY)
    associated = b"\1\1" + b"\0\0\0\1a" + b"\0\0\0\2bc"
    assert sealed == b"\1\1" + nonce + made[32:] + AESGCM(made[:32]).encrypt(nonce, b"value", associated)
