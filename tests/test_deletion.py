"""Files that are deleted while others read them, and whose space is freed in steps."""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest
from metamorphd.deletion import STEP_BYTES, delete, open_shared

SIZE = 3 * STEP_BYTES + 1


def make(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def waited(until: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not until() and time.monotonic() < deadline:
        time.sleep(0.01)
    return until()


@pytest.mark.parametrize("size", [0, 7, STEP_BYTES, SIZE])
def test_a_file_is_gone_at_once_and_deleting_it_again_does_nothing(tmp_path: Path, size: int) -> None:
    path = make(tmp_path / "file", size)
    delete(path)
    assert not list(tmp_path.iterdir())
    delete(path)
    with pytest.raises(FileNotFoundError):
        open_shared(path)


def test_a_file_keeps_its_content_until_its_readers_have_closed_it(tmp_path: Path) -> None:
    path = make(tmp_path / "file", SIZE)
    with open_shared(path) as first, open_shared(path) as second, path.open("rb") as observer:
        delete(path)
        first.close()
        time.sleep(0.1)
        assert len(second.read()) == SIZE
        second.close()
        assert waited(lambda: os.fstat(observer.fileno()).st_size == 0)
    assert waited(lambda: "deletion" not in [thread.name for thread in threading.enumerate()])


def test_whoever_opens_a_file_that_is_deleted_meanwhile_has_all_of_it_or_none(tmp_path: Path) -> None:
    path, ended = tmp_path / "file", threading.Event()

    def look() -> set[int]:
        sizes = set()
        while not ended.is_set():
            try:
                with open_shared(path) as file:
                    time.sleep(0.001)
                    sizes.add(os.fstat(file.fileno()).st_size)
            except FileNotFoundError:
                pass
        return sizes

    with ThreadPoolExecutor() as threads:
        looking = [threads.submit(look) for _ in range(3)]
        for _ in range(300):
            make(tmp_path / "made", SIZE).rename(path)
            time.sleep(0.001)
            delete(path)
        ended.set()
        assert [each.result() for each in looking] == [{SIZE}] * 3


def test_a_file_that_is_freed_between_being_opened_and_locked_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = make(tmp_path / "file", SIZE), fcntl.flock

    def late(file: FileIO | int, operation: int) -> None:
        if isinstance(file, FileIO):
            delete(path)
            assert waited(lambda: os.fstat(file.fileno()).st_size == 0)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(FileNotFoundError):
        open_shared(path)


def test_what_is_no_file_is_not_deleted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        delete(tmp_path)
    assert tmp_path.is_dir()
