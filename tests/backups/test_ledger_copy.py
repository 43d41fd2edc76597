"""The erasure ledger in a bucket: what was sent there stays, and is sent once."""

from pathlib import Path

import pytest
from metamorphd.backups import ledger_copy
from metamorphd.backups.bucket import Bucket
from metamorphd.backups.ledger import LedgerFile, format_entries
from metamorphd.backups.ledger_copy import LedgerCopy, RemoteLedger
from metamorphd.models.erased_vault import ErasedVault

from tests.support.buckets import Store

MANY = [ErasedVault(f"vault-{number}", "a" * 32, number) for number in range(40)]


@pytest.fixture
def file(tmp_path: Path) -> LedgerFile:
    return LedgerFile(tmp_path / "erased-vaults.jsonl")


def copy_of(file: LedgerFile, bucket: Bucket) -> LedgerCopy:
    """Returns what sends a file, as a server that has just been started has it."""
    return LedgerCopy(file=file, remote=RemoteLedger(bucket), directory=file.path.parent)


def entries_in(store: Store) -> list[ErasedVault]:
    entries = [entry for part in RemoteLedger(store.bucket).parts() for entry in part]
    return sorted(entries, key=lambda entry: entry.delete_time)


def test_each_entry_is_sent_once_whichever_server_sends_it(store: Store, file: LedgerFile) -> None:
    copy = copy_of(file, store.bucket)
    copy.send()
    assert store.names == []
    for number in range(4):
        file.add(MANY[2 * number : 2 * number + 2])
        copy.send()
        # One that was started anew has nothing to send.
        copy = copy_of(file, store.bucket)
        copy.send()
    assert entries_in(store) == MANY[:8]
    assert len(store.names) == 1


def test_what_another_database_has_sent_stays(store: Store, file: LedgerFile, tmp_path: Path) -> None:
    other = LedgerFile(tmp_path / "other" / "erased-vaults.jsonl")
    file.add(MANY[:2])
    other.add(MANY[2:4])
    copy_of(file, store.bucket).send()
    copy_of(other, store.bucket).send()
    file.add(MANY[4:5])
    copy_of(file, store.bucket).send()
    assert entries_in(store) == MANY[:5]


def test_an_object_that_is_large_enough_is_not_written_again(
    store: Store, file: LedgerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_copy, "LARGE_BYTES", len(format_entries(MANY[:3])))
    copy = copy_of(file, store.bucket)
    seen: dict[str, bytes] = {}
    for entry in MANY:
        file.add([entry])
        copy.send()
        now = {name: (store.objects / name).read_bytes() for name in store.names}
        large = {name: content for name, content in seen.items() if len(content) >= ledger_copy.LARGE_BYTES}
        assert large.items() <= now.items()
        seen = now
    assert entries_in(store) == MANY
    assert len(store.names) <= -(-len(MANY) // 3)


@pytest.mark.parametrize("lost", ["the bucket's", "the file", "the note"])
def test_what_is_lost_is_sent_again(store: Store, file: LedgerFile, lost: str) -> None:
    file.add(MANY[:3])
    copy_of(file, store.bucket).send()
    if lost == "the bucket's":
        store.bucket.delete(store.names[0])
    elif lost == "the file":
        file.delete()
        file.add(reversed(MANY[:3]))
    else:
        (file.path.parent / ledger_copy.SENT).unlink()
    file.add(MANY[3:4])
    copy_of(file, store.bucket).send()
    assert dict.fromkeys(entries_in(store)) == dict.fromkeys(MANY[:4])


def test_another_bucket_gets_all_of_it(store: Store, file: LedgerFile) -> None:
    file.add(MANY[:3])
    copy_of(file, store.bucket).send()
    elsewhere = Bucket(f"{store.url}/elsewhere", store.credentials)
    RemoteLedger(elsewhere).add(format_entries(MANY[3:]))
    copy_of(file, elsewhere).send()
    assert {entry for part in RemoteLedger(elsewhere).parts() for entry in part} == set(MANY)


def test_an_object_without_a_last_newline_and_one_of_an_earlier_server_are_read(store: Store, file: LedgerFile) -> None:
    store.bucket.write_small("erased-vaults.jsonl", b"nonsense\n" + format_entries(MANY[:2])[:-1])
    assert entries_in(store) == MANY[:2]
    file.add(MANY[2:3])
    copy_of(file, store.bucket).send()
    assert entries_in(store) == MANY[:3]
