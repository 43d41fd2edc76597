"""Operations on secrets, and what is counted of them."""

from hashlib import blake2b

import pytest
from metamorphd.clock import Clock
from metamorphd.errors import KeyUnavailable
from metamorphd.housekeeping import Housekeeping
from metamorphd.keys.environment import EnvironmentKeys
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.secret import NewVersion
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.database import Database, Transaction
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.secrets import list_secrets
from metamorphd.store.storage import get_storage

from tests.support.rows import ACME, EVIL

COUNT = """
SELECT (SELECT COUNT(*) FROM secrets WHERE vault_id = :vault_id) AS secrets,
    (SELECT COUNT(*) FROM secret_versions WHERE vault_id = :vault_id) AS versions
"""
GET_HASH = """
SELECT hash_key, body_hash FROM vaults JOIN requests ON requests.vault_id = :vault_id
WHERE vaults.vault_id = :vault_id
"""
FORGET = "DELETE FROM data_keys WHERE vault_id = :vault_id"


class Passing(Clock):
    """Time that passes when a test says so."""

    passed = 0

    def now(self) -> int:
        return super().now() + self.passed


@pytest.fixture
def clock() -> Passing:
    return Passing()


@pytest.fixture
def secrets(database: Database, clock: Clock) -> Secrets:
    keys = VaultKeys(EnvironmentKeys(["k" * 32], key_time=None))
    return Secrets(database=database, keys=keys, clock=clock, storage_limit=0)


async def counted(tx: Transaction) -> tuple[int, int]:
    row = await tx.one(COUNT)
    return (0, 0) if row is None else (row.secrets, row.versions)


async def hashed(tx: Transaction) -> tuple[bytes, bytes]:
    row = await tx.one(GET_HASH)
    assert row is not None
    return row.hash_key, row.body_hash


async def forget(tx: Transaction) -> None:
    await tx.run(FORGET)


async def test_expired_secrets_are_erased_by_the_housekeeping(
    database: Database, secrets: Secrets, clock: Passing
) -> None:
    soon = clock.now() + 1_000_000
    for scope in (ACME, EVIL):
        for number in range(30):
            new = NewVersion(f"{number}", None, {"a": "b"}, soon if number else None)
            await secrets.put(scope, new, value=b"value", request=None)
            await secrets.put(scope, new, value=b"value", request=None)
    keeping = Housekeeping(database=database, clock=clock, event_retention_hours=1, request_retention_days=7)
    await keeping.sweep()
    assert await database.read(counted, ACME) == (30, 60)
    clock.passed = 2_000_000
    await keeping.sweep()
    for scope in (ACME, EVIL):
        assert await database.read(counted, scope) == (1, 2)
        status = await database.read(get_storage, scope, default_limit=0)
        # Two sealed values, the name and the labels.
        assert status.stored_bytes == 2 * (5 + 62) + 1 + 9


async def test_a_page_is_shorter_by_what_has_expired_and_is_not_erased_yet(
    database: Database, secrets: Secrets, clock: Passing
) -> None:
    for number in range(4):
        new = NewVersion(f"{number}", None, {}, clock.now() + 1_000_000 if number < 2 else None)
        await secrets.put(ACME, new, value=b"value", request=None)
    clock.passed = 2_000_000
    page = await database.read(list_secrets, ACME, after="", page_size=2, now=clock.now())
    assert (page.items, page.next_after) == ((), ("1",))
    page = await database.read(list_secrets, ACME, after="1", page_size=2, now=clock.now())
    assert ([secret.name for secret in page.items], page.next_after) == (["2", "3"], None)


async def test_the_hash_of_a_request_cannot_be_compared_with_guesses(database: Database, secrets: Secrets) -> None:
    request = IdempotencyKey("PutSecret", "id", b"a guess at all that was sent")
    await secrets.put(ACME, NewVersion("name", None, {}, None), value=b"value", request=request)
    hash_key, body_hash = await database.read(hashed, ACME)
    assert body_hash != blake2b(request.body, key=hash_key, digest_size=32).digest()


async def test_a_value_whose_data_key_is_gone_says_so(database: Database, secrets: Secrets) -> None:
    await secrets.put(ACME, NewVersion("name", None, {}, None), value=b"value", request=None)
    await database.write(forget, ACME)
    with pytest.raises(KeyUnavailable) as refusal:
        await secrets.get(ACME, name="name", version=0)
    assert refusal.value.metadata["key_id"].startswith("dek_")
