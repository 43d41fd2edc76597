"""The chain that authenticates the logs of vaults."""

import hashlib
import hmac
from typing import Any

import pytest
from metamorphd.chain import Chain, ChainKey, Entry, Head
from metamorphd.keys.audit import make_chain

ENTRY = Entry("acme", 7, 1_700_000_000_000_000, "alice", 0, "call-1", "session", "ses_1", "created", "")
KEY, OTHER = ChainKey("0123456789abcdef", bytes(32)), ChainKey("fedcba9876543210", b"k" * 32)
OTHERS: dict[str, Any] = {
    "vault_id": "evil",
    "revision": 8,
    "change_time": 1,
    "actor": "bob",
    "operator": 1,
    "call_id": "call-2",
    "resource": "message",
    "resource_id": "ses_2",
    "verb": "deleted",
    "detail": '{"version":"1"}',
}


def test_a_mac_is_hmac_sha256_over_lengths_and_fields_as_the_page_says() -> None:
    fields = [
        b"metamorph log entry 1",
        b"p" * 32,
        KEY.key_id.encode(),
        b"acme",
        b"7",
        b"1700000000000000",
        b"alice",
        b"0",
        b"call-1",
        b"session",
        b"ses_1",
        b"created",
        b"",
    ]
    body = b"".join(len(field).to_bytes(4) for field in fields) + b"".join(fields)
    assert Chain([KEY]).link(b"p" * 32, ENTRY) == hmac.new(KEY.key, body, hashlib.sha256).digest()


@pytest.mark.parametrize("name", OTHERS)
def test_every_field_of_an_entry_changes_its_mac(name: str) -> None:
    chain = Chain([KEY])
    assert chain.link(b"", ENTRY._replace(**{name: OTHERS[name]})) != chain.link(b"", ENTRY)
    assert OTHERS.keys() == set(Entry._fields)


def test_the_entry_before_and_the_key_change_the_mac() -> None:
    chain = Chain([KEY, OTHER])
    macs = {chain.link(b"", ENTRY), chain.link(b"p" * 32, ENTRY), chain.mac_of(b"", ENTRY, OTHER.key_id)}
    assert len(macs) == 3


def test_text_cannot_move_from_one_field_to_the_next() -> None:
    chain = Chain([KEY])
    moved = ENTRY._replace(actor="alicecall", call_id="-1")
    assert chain.link(b"", moved) != chain.link(b"", ENTRY)


def test_a_chain_without_a_key_authenticates_nothing() -> None:
    chain = Chain()
    assert (chain.key_id, chain.link(b"", ENTRY), chain.seal("acme", Head(1, b""))) == ("", b"", b"")


def test_a_seal_belongs_to_a_vault_a_revision_and_a_mac() -> None:
    chain = Chain([KEY])
    seals = [
        chain.seal("acme", Head(1, b"m" * 32)),
        chain.seal("evil", Head(1, b"m" * 32)),
        chain.seal("acme", Head(2, b"m" * 32)),
        chain.seal("acme", Head(1, b"n" * 32)),
    ]
    assert len(set(seals)) == 4


def test_keys_are_made_of_texts_of_any_form_and_have_ages() -> None:
    chain = make_chain(["a" * 64, "id:" + "b" * 44])
    earlier = make_chain(["id:" + "b" * 44])
    assert (chain.age_of(chain.key_id), chain.age_of(earlier.key_id), chain.age_of("none")) == (0, 1, None)
    assert chain.mac_of(b"", ENTRY, earlier.key_id) == earlier.link(b"", ENTRY)
