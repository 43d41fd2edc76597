"""Files of exports, which others replace and delete at the same time."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metamorphd.transfers.files import ExportFiles


def test_an_export_that_is_replaced_meanwhile_is_found_or_not(tmp_path: Path) -> None:
    files, ended = ExportFiles(tmp_path / "exports"), threading.Event()

    def replace() -> None:
        for _ in range(300):
            files.complete(files.create("acme", "exp_1"))
        ended.set()

    def look() -> int:
        found = 0
        while not ended.is_set():
            found += files.find("acme", "exp_1", since=0) is not None
            files.delete_older(0, kept=())
        return found

    with ThreadPoolExecutor() as threads:
        looking = threads.submit(look)
        threads.submit(replace).result()
        assert looking.result()


def test_an_export_is_found_with_its_size(tmp_path: Path) -> None:
    files = ExportFiles(tmp_path / "exports")
    path = files.create("acme", "exp_1")
    path.write_bytes(b"a line\n")
    assert files.find("acme", "exp_1", since=0) is None
    named = files.complete(path)
    assert files.find("acme", "exp_2", since=0) is None
    assert files.find("acme", "exp_1", since=0) == (named, 7)


def test_files_are_deleted_and_no_longer_found_by_when_they_were_completed(tmp_path: Path) -> None:
    files = ExportFiles(tmp_path / "exports")
    old, read, new = (files.complete(files.create(f"vault-{name}", name)) for name in ("old", "read", "new"))
    for path in (old, read):
        os.utime(path, (100, 100))
    assert [files.find(f"vault-{name}", name, since=101) is None for name in ("old", "read", "new")] == [
        True,
        True,
        False,
    ]
    assert files.find("vault-old", "old", since=100) == (old, 0)
    files.delete_older(101, kept={"read"})
    assert [path.exists() for path in (old, read, new)] == [False, True, True]


def test_a_file_that_is_deleted_has_no_bytes_and_one_that_got_its_name_meanwhile_has_them(tmp_path: Path) -> None:
    files = ExportFiles(tmp_path / "exports")
    path = files.create("acme", "exp_1")
    path.write_bytes(b"some lines\n")
    assert files.read(path, 5, 5) == b"lines"
    named = files.complete(path)
    assert files.read(path, 5, 5) == files.read(named, 5, 5) == b"lines"
    files.discard(path)
    assert (named.exists(), files.read(path, 5, 5), files.read(named, 5, 5)) == (False, b"", b"")
