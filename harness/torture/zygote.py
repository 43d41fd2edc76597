"""Servers and restores that start fast and die on command: forked from a process that has imported everything.

`python -m harness.torture.zygote LOG` reads commands, one JSON object per line, and reports what becomes of its forks.
"""

import asyncio
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc.aio
import uvloop
from metamorphd import process
from metamorphd.cli import cli
from metamorphd.observe import configure_logging
from metamorphd.settings import loading

import harness.torture.backup_mutants
import harness.torture.mutants  # noqa: F401, they register theirs
from harness.mutants import mutate
from harness.torture.kill_points import arm
from tests.support.paths import ROOT
from tests.support.tokens import SECRET

END_SECONDS = 60.0


@dataclass
class Life:
    """One server, or one restore, from its start to its end; times are wall-clock seconds."""

    began: float
    pid: int = 0
    served_at: float = 0.0
    ended_at: float = 0.0
    cpu_seconds: float = 0.0
    status: int = 0
    serving: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def until_serving(self) -> bool:
        """Waits until it serves or has ended. Returns whether it serves."""
        waits = [asyncio.create_task(event.wait()) for event in (self.serving, self.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self.serving.is_set()

    async def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself in this time."""
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True


class Zygote:
    """Forks one server at a time, all on the same port and database; `overrides` change the settings of a test.

    It forks `metamorph backup restore` too, while no server runs.
    """

    def __init__(self, directory: Path, *, port: int, **overrides: Any) -> None:
        self.log = directory / "servers.log"
        self._settings = {
            "emblem_jwt_secret": SECRET,
            "emblem_api_url": "",
            "listen_address": "127.0.0.1",
            "port": 0,
            "grpc_port": port,
            "database_path": str(directory / "metamorph.db"),
            "rate_limit_requests": 0,
            "auth_failure_requests": 0,
            "log_level": "warning",
        } | overrides
        self.target = f"127.0.0.1:{port}"
        self.database = Path(str(self._settings["database_path"]))
        self._directory = directory

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "harness.torture.zygote", str(self.log),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=self._directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "MALLOC_ARENA_MAX": "2"},
        )  # fmt: skip
        assert self._process.stdout is not None
        await self._process.stdout.readline()
        self._reading = asyncio.create_task(self._read(self._process.stdout))
        return self

    async def __aexit__(self, *_: object) -> None:
        # When its standard input ends, it kills the server it forked and exits.
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    def start(self, *, mutant: str = "", point: str = "", count: int = 0) -> Life:
        """Starts a server; the one before must have ended. It dies at the `count`-th `point`, if one is given."""
        self._life = Life(time.time())
        self._command(do="start", mutant=mutant, point=point, count=count, settings=self._settings)
        return self._life

    def restore(
        self, backup: Path, *, mutant: str = "", point: str = "", count: int = 0, by: signal.Signals = signal.SIGKILL
    ) -> Life:
        """Starts `metamorph backup restore` to the database. A `point` is as for `start`, `by` what is sent there."""
        self._life = Life(time.time())
        arguments = ["backup", "restore", str(backup), "--to", str(self.database), "--yes", "--json"]
        self._command(do="restore", mutant=mutant, point=point, count=count, by=int(by), arguments=arguments)
        return self._life

    def signal(self, signum: signal.Signals) -> None:
        """Signals the server, if it has not ended."""
        self._command(do="signal", signum=int(signum))

    async def kill(self) -> None:
        """Ends the server by SIGKILL, if it has not ended. Raises TimeoutError if it does not end."""
        self.signal(signal.SIGKILL)
        async with asyncio.timeout(END_SECONDS):
            await self._life.ended.wait()

    def _command(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read(self, reports: asyncio.StreamReader) -> None:
        async for line in reports:
            report = json.loads(line)
            match report["is"]:
                case "forked":
                    self._life.pid = report["pid"]
                case "serving":
                    self._life.served_at = time.time()
                    self._life.serving.set()
                case "ended":
                    self._life.status, self._life.ended_at = report["status"], time.time()
                    self._life.cpu_seconds = report["cpu_seconds"]
                    self._life.ended.set()


def _report(descriptor: int, **report: Any) -> None:
    os.write(descriptor, json.dumps(report).encode() + b"\n")


def _serve(command: dict[str, Any], reports: int) -> None:
    mutate(command["mutant"])
    if command["point"]:
        arm(command["point"], command["count"])
    loaded = loading.load(**command["settings"])
    configure_logging(loaded.log_level)
    uvloop.run(process.serve(loaded, announce=lambda _: _report(reports, **{"is": "serving"})))


def _restore(command: dict[str, Any], _reports: int) -> None:
    mutate(command["mutant"])
    if command["point"]:
        arm(command["point"], command["count"], by=signal.Signals(command["by"]))
    # Where jobs in the background ignore it, Python does too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main(command["arguments"], prog_name="metamorph", standalone_mode=False)


class _Child:
    """A forked process. `pidfd` (pidfd_open(2)) is readable once it has ended, and never means another process."""

    def __init__(self, command: dict[str, Any], reports: int) -> None:
        self._reports = reports
        self._pid = os.fork()
        if not self._pid:
            _be(_serve if command["do"] == "start" else _restore, command, reports)
        self.pidfd = os.pidfd_open(self._pid)
        _report(reports, **{"is": "forked", "pid": self._pid})

    def end(self) -> None:
        """Waits for its end and reports it."""
        _, status, used = os.wait4(self._pid, 0)
        os.close(self.pidfd)
        code = os.waitstatus_to_exitcode(status)
        _report(self._reports, **{"is": "ended", "status": code, "cpu_seconds": used.ru_utime + used.ru_stime})


def _be(work: Callable[[dict[str, Any], int], None], command: dict[str, Any], reports: int) -> NoReturn:
    status = 1
    try:
        # Not closed: the next file that is opened would become standard input.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        work(command, reports)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Runs until standard input ends."""
    # Loads here, once for all forks, what otherwise takes time on first use.
    __import__("anthropic")
    __import__("metamorphd.cli.restoring")
    assert grpc.aio is not None
    reports = os.dup(1)
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _report(reports, **{"is": "ready"})
    child, buffered = None, b""
    while True:
        ready, _, _ = select.select([0, child.pidfd] if child else [0], [], [])
        if child and child.pidfd in ready:
            child.end()
            child = None
        if 0 in ready:
            received = os.read(0, 65_536)
            *lines, buffered = (buffered + received).split(b"\n")
            for command in map(json.loads, lines):
                if command["do"] in ("start", "restore"):
                    child = _Child(command, reports)
                elif child:
                    signal.pidfd_send_signal(child.pidfd, command["signum"])
            if not received:
                break
    if child:
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        child.end()


if __name__ == "__main__":
    main()
