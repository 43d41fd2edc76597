"""What is destroyed or deleted of secrets is in no file, once the log is copied."""

from pathlib import Path

from metamorphd.models.data_key import DataKey
from metamorphd.models.secret import NewVersion, Place
from metamorphd.store.secrets import (
    delete_secret,
    destroy_secret_version,
    expire_secret,
    get_secret_state,
    put_secret,
)
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.store.sqlite.writer import cut_log
from tests.support.rows import ACME, KEY

DATA_KEY = DataKey("dek_1", "0" * 16, b"wrapped")


def stored(number: int, version: int) -> bytes:
    """Returns the bytes of a version, which may be longer than a page."""
    return b"sealed-%d-%d." % (number, version) * (1 if number % 3 else 500)


async def put(database: SqliteDatabase, number: int, version: int, *, expire_time: int | None = None) -> None:
    name = f"secret-{number}"
    await database.write(
        put_secret,
        ACME,
        new=NewVersion(name, None, {}, expire_time),
        place=Place(f"sec_{number}", name, version),
        sealed_value=stored(number, version),
        state=await database.read(get_secret_state, ACME, name=name, now=1),
        data_key=DATA_KEY,
        request=None,
        hash_key=KEY,
        now=1,
    )


async def test_what_is_destroyed_deleted_expired_or_too_old_is_in_no_file(tmp_path: Path) -> None:
    async with SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="NORMAL") as database:
        for number in range(40):
            for version in range(1, 24 if number == 39 else 4):
                await put(database, number, version, expire_time=9 if number % 4 == 3 and number < 39 else None)
        await cut_log(database)
        gone = {(39, version) for version in range(1, 4)}
        for number in range(39):
            name = f"secret-{number}"
            if number % 4 == 1:
                await database.write(destroy_secret_version, ACME, name=name, version=2, now=2)
                gone |= {(number, 2)}
            if number % 4 == 2:
                await database.write(delete_secret, ACME, name=name, expected_version=None, now=2)
            if number % 4 == 3:
                await database.write(expire_secret, ACME, name=name, now=9)
            if number % 4 > 1:
                gone |= {(number, version) for version in (1, 2, 3)}
        await cut_log(database)
        whole = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    places = {(number, version) for number in range(40) for version in range(1, 24 if number == 39 else 4)}
    left = {place for place in places if b"sealed-%d-%d." % place in whole}
    assert left == places - gone
