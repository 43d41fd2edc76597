"""Keys from the environment and from a file wrap data keys, one at a time, and unwrap with all."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from metamorphd.errors import CiphertextDamaged, EncryptionNotConfigured, KeyUnavailable, StartupRefused
from metamorphd.keys.environment import EnvironmentKeys, wrapping_key
from metamorphd.keys.holder import KeyHolder, NoKeys
from metamorphd.keys.key_file import KeyFile, add_key, read_keys
from metamorphd.keys.vault_keys import VaultKeys

OLD, NEW = "o" * 32, "n" * 32
DAY = 86_400_000_000


def in_environment(tmp_path: Path) -> KeyHolder:
    return EnvironmentKeys([NEW, OLD], key_time=DAY)


def in_file(tmp_path: Path) -> KeyHolder:
    add_key(tmp_path / "keys", now=DAY)
    return KeyFile(tmp_path / "keys", previous=[wrapping_key(OLD)])


each_holder = pytest.mark.parametrize("holder_of", [in_environment, in_file])


@each_holder
async def test_a_data_key_is_unwrapped_in_its_vault_only(
    tmp_path: Path, holder_of: Callable[[Path], KeyHolder]
) -> None:
    keys = VaultKeys(holder_of(tmp_path))
    data_key = await keys.create("acme", data_key_id="dek_1")
    assert (await keys.unwrap("acme", data_key)).digest(b"x") == (await keys.unwrap("acme", data_key)).digest(b"x")
    with pytest.raises(CiphertextDamaged):
        await keys.unwrap("evil", data_key)


@each_holder
async def test_a_previous_key_unwraps_and_the_current_one_wraps_again(
    tmp_path: Path, holder_of: Callable[[Path], KeyHolder]
) -> None:
    before, holder = VaultKeys(EnvironmentKeys([OLD], key_time=None)), holder_of(tmp_path)
    data_key = await before.create("acme", data_key_id="dek_1")
    after = VaultKeys(holder)
    rewrapped = await after.rewrap("acme", data_key)
    assert (holder.key_time, rewrapped.wrapping_key_id) == (DAY, holder.key_id)
    digest = (await before.unwrap("acme", data_key)).digest(b"x")
    assert (await after.unwrap("acme", rewrapped)).digest(b"x") == digest
    with pytest.raises(KeyUnavailable) as refusal:
        await before.unwrap("acme", rewrapped)
    assert refusal.value.metadata == {"key_id": holder.key_id}


@each_holder
async def test_a_holder_says_which_keys_it_has(tmp_path: Path, holder_of: Callable[[Path], KeyHolder]) -> None:
    holder = holder_of(tmp_path)
    held = [holder.key_id, wrapping_key(OLD).key_id, wrapping_key("x" * 32).key_id]
    assert [await holder.holds(key_id) for key_id in held] == [True, True, False]
    assert await NoKeys().holds(holder.key_id) is False


async def test_a_key_that_another_server_has_added_is_held_and_stays_if_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, now=DAY)
    holder, beside = KeyFile(path), KeyFile(path)
    await beside.rotate(now=2 * DAY)
    assert await holder.holds(beside.key_id)
    path.unlink()
    assert [await holder.holds(key_id) for key_id in (beside.key_id, wrapping_key(OLD).key_id)] == [True, False]


async def test_a_file_has_a_new_key_for_each_rotation_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, now=DAY)
    holder, beside = KeyFile(path), VaultKeys(KeyFile(path))
    keys = VaultKeys(holder)
    first = await keys.create("acme", data_key_id="dek_1")
    await holder.rotate(now=2 * DAY)
    second = await keys.create("acme", data_key_id="dek_2")
    assert first.wrapping_key_id != second.wrapping_key_id == holder.key_id
    assert (holder.key_time, len(read_keys(path)), path.stat().st_mode & 0o777) == (2 * DAY, 2, 0o600)
    # Another server with the same file reads it again.
    for data_key in (second, first):
        await keys.unwrap("acme", data_key)
        await beside.unwrap("acme", data_key)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("lost", ["", "another key", "torn"])
async def test_a_file_that_has_lost_the_key_in_use_gets_no_new_one(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "keys"
    add_key(path, now=DAY)
    holder = KeyFile(path)
    keys = VaultKeys(holder)
    data_key = await keys.create("acme", data_key_id="dek_1")
    path.unlink()
    if lost == "another key":
        add_key(path, now=2 * DAY)
    elif lost:
        path.write_text(lost)
        path.chmod(0o600)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(KeyUnavailable) as refusal:
        await holder.rotate(now=3 * DAY)
    assert refusal.value.metadata == {"key_id": data_key.wrapping_key_id}
    assert (path.read_bytes() if path.exists() else None) == before
    await keys.unwrap("acme", data_key)


def test_a_file_that_cannot_be_used_is_refused_with_a_remedy_and_without_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(StartupRefused, match="metamorph keys create"):
        KeyFile(path)
    add_key(path, now=DAY)
    line = path.read_text()
    for text, mode, expected in (
        (line, 0o640, "chmod 600"),
        ("", 0o600, "has no key"),
        (line + line[:-2] + "\n", 0o600, "no key in line 2"),
        (line.upper(), 0o600, "no key in line 1"),
    ):
        path.write_text(text)
        path.chmod(mode)
        with pytest.raises(StartupRefused, match=expected) as refusal:
            KeyFile(path)
        assert line[21:40] not in str(refusal.value).lower()


def test_a_file_that_was_being_replaced_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, now=DAY)
    (tmp_path / ".keys.01234567").write_text("torn")
    add_key(path, now=2 * DAY)
    assert [key.key_time for key in read_keys(path)] == [2 * DAY, DAY]


async def test_without_a_key_nothing_is_wrapped_or_unwrapped() -> None:
    keys = VaultKeys(NoKeys())
    data_key = await VaultKeys(EnvironmentKeys([OLD], key_time=None)).create("acme", data_key_id="dek_1")
    with pytest.raises(EncryptionNotConfigured):
        keys.require()
    with pytest.raises(EncryptionNotConfigured):
        await keys.create("acme", data_key_id="dek_1")
    with pytest.raises(EncryptionNotConfigured):
        await keys.unwrap("acme", data_key)
    with pytest.raises(EncryptionNotConfigured):
        await keys.holder.rotate(now=0)


def test_each_key_has_an_id_of_its_own_and_is_not_shown() -> None:
    random = os.urandom(16).hex()
    holder = EnvironmentKeys([random, OLD], key_time=None)
    assert len(holder.key_id) == 16
    assert holder.key_id != EnvironmentKeys([OLD], key_time=None).key_id
    key = wrapping_key(random)
    assert key.key.hex() not in repr(key)
    assert repr(key.key) not in repr(key)


def test_keys_that_are_added_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: add_key(path, now=DAY), range(40)))
    assert len({key.key_id for key in read_keys(path)}) == 40
