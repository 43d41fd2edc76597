"""Verified tokens in memory."""

from dataclasses import replace

from metamorphd.auth.verified_tokens import Verified, VerifiedTokens
from metamorphd.models.caller import SERVER


def of(vault_id: str) -> Verified:
    return Verified(replace(SERVER, vault_id=vault_id), until=0)


def test_a_vault_with_many_tokens_takes_no_place_of_others() -> None:
    known = VerifiedTokens(size=100)
    for number in range(10):
        known.keep(f"small-{number}", of(f"small-{number % 5}"))
    for number in range(1000):
        known.keep(f"large-{number}", of("large"))
    assert all(known.get(f"small-{number}") for number in range(10))
    kept = [number for number in range(1000) if known.get(f"large-{number}")]
    # Its newest.
    assert kept == list(range(1000 - len(kept), 1000))
    assert 80 <= len(kept) <= 90


def test_a_full_table_of_equal_vaults_has_room_for_another() -> None:
    known = VerifiedTokens(size=10)
    for number in range(50):
        known.keep(f"t{number}", of(f"v{number}"))
        assert known.get(f"t{number}") == of(f"v{number}")
    assert sum(known.get(f"t{number}") is not None for number in range(50)) == 10


def test_a_token_is_kept_once_and_can_be_forgotten() -> None:
    known = VerifiedTokens(size=10)
    for vault_id in ("a", "a", "b"):
        known.keep("t", of(vault_id))
    assert known.get("t") == of("b")
    known.forget("t")
    known.forget("t")
    assert known.get("t") is None
