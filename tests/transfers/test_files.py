"""Files of exports, which others replace and delete at the same time."""

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
            found += files.find("acme", "exp_1") is not None
            files.delete_older(0)
        return found

    with ThreadPoolExecutor() as threads:
        looking = threads.submit(look)
        threads.submit(replace).result()
        assert looking.result()


def test_an_export_is_found_with_its_size(tmp_path: Path) -> None:
    files = ExportFiles(tmp_path / "exports")
    path = files.create("acme", "exp_1")
    path.write_bytes(b"a line\n")
    assert files.find("acme", "exp_1") is None
    named = files.complete(path)
    assert files.find("acme", "exp_2") is None
    assert files.find("acme", "exp_1") == (named, 7)
