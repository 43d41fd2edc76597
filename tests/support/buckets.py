"""A real server of S3's protocol on loopback, with a bucket."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamorphd.backups.bucket import Bucket, Credentials

from tests.support.ports import free_port
from tests.support.programs import require

BUCKET, KEY_ID, SECRET_KEY = "backups", "test-key", "test-secret-of-a-bucket"
START_SECONDS = 30


@dataclass(frozen=True)
class Store:
    """The server, which keeps each object in a file of its own."""

    process: subprocess.Popen[bytes]
    endpoint: str
    directory: Path

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/here"

    @property
    def objects(self) -> Path:
        return self.directory / BUCKET / "here"

    @property
    def names(self) -> list[str]:
        return sorted(file.name for file in self.objects.glob("*"))

    @property
    def unfinished(self) -> list[Path]:
        """The parts of uploads that were neither completed nor discarded."""
        return [path for path in (self.directory / BUCKET / ".sgwtmp").rglob("*") if path.is_file()]

    @property
    def credentials(self) -> Credentials:
        return Credentials(KEY_ID, SECRET_KEY, "us-east-1", self.endpoint)

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.url, self.credentials)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a server that uses it."""
        return {name.lower(): value for name, value in self.environment.items()}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BACKUP_S3_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
        }


@contextmanager
def bucket_server(directory: Path) -> Iterator[Store]:
    """Runs the server. Skips the test if it is not installed, except in CI."""
    program, port = require("versitygw", hint="`make tools`"), free_port()
    objects, about = directory / "objects", directory / "about"
    (objects / BUCKET).mkdir(parents=True)
    about.mkdir()
    process = subprocess.Popen(
        [program, "--port", f"127.0.0.1:{port}", "posix", "--sidecar", str(about), str(objects)],
        env={"ROOT_ACCESS_KEY": KEY_ID, "ROOT_SECRET_KEY": SECRET_KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(process, port)
        yield Store(process, f"http://127.0.0.1:{port}", objects)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the bucket's server did not start")
