"""The key is changed while secrets are read, and the server is killed in mid-rotation: every read has its value."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from metamorph_client.admin.v1.admin_service_pb2 import GetKeyRotationRequest, KeyRotation, RotateDataKeysRequest
from metamorph_client.vault.v1.vault_service_pb2 import GetSecretRequest
from metamorphd.clock import Clock
from metamorphd.keys.environment import EnvironmentKeys
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.secret import NewVersion
from metamorphd.secrets.secrets import Secrets

from harness.figure import Figure, tried
from harness.run import Run
from tests.support.caller import Caller, calling
from tests.support.engines import ENGINES
from tests.support.processes import Service, environment_of, service
from tests.support.rows import scope_of
from tests.support.tokens import mint

OLD, NEW = "o" * 32, "n" * 32
PLANTED_AT_ONCE = 200
READERS = 8
LOOK_SECONDS = 0.05
FAILED = "reads of secrets that failed, or had another value"
LEFT = "data keys that the old key still wraps"
UNREAD = "secrets that cannot be read without the old key"


async def rotation(
    run: Run, *, vaults: int, kills: int, pause_seconds: float = 0.01, stalled_seconds: float = 60.0
) -> list[Figure]:
    """Plants a secret in each vault, and rewraps them all with readers and kills in between.

    `pause_seconds` is the server's own between two steps; a longer one leaves time for kills in a short form. A
    rotation that rewraps nothing for `stalled_seconds` never ends.
    """
    await _plant(run.directory, vaults)
    torture = Rotation(run, vaults=vaults, pause_seconds=pause_seconds, stalled_seconds=stalled_seconds)
    began = time.monotonic()
    for number in range(kills):
        await torture.life(until=vaults * (kills - number) // (kills + 1))
    left = await torture.life(until=0)
    seconds = time.monotonic() - began
    unread = await torture.without_the_old_key()
    return [
        tried("secrets in vaults of their own", vaults),
        tried("reads of secrets", torture.reads),
        Figure("kills in mid-rotation", torture.kills, "", "=", kills),
        Figure(FAILED, torture.failed.total(), "", "=", 0, ", ".join(torture.failed)),
        Figure(LEFT, left, "", "=", 0),
        Figure(UNREAD, unread, "", "=", 0),
        Figure("time to rewrap them, starts included", seconds, "s"),
    ]


async def _plant(directory: Path, vaults: int) -> None:
    """Stores a secret in each vault, without a server."""
    async with ENGINES[0].database(directory) as database:
        keys = VaultKeys(EnvironmentKeys([OLD], key_time=None))
        secrets = Secrets(database=database, keys=keys, clock=Clock(), storage_limit=0)
        for first in range(0, vaults, PLANTED_AT_ONCE):
            numbers = range(first, min(first + PLANTED_AT_ONCE, vaults))
            new = NewVersion("secret", None, {}, None)
            await asyncio.gather(
                *(secrets.put(scope_of(_vault(each)), new, value=_value(each), request=None) for each in numbers)
            )


def _vault(number: int) -> str:
    return f"v{number}"


def _value(number: int) -> bytes:
    return b"value %d" % number


class Rotation:
    """The lives of a server with the new key, and readers."""

    def __init__(self, run: Run, *, vaults: int, pause_seconds: float, stalled_seconds: float) -> None:
        self.reads = self.kills = 0
        self.failed = Counter[str]()
        self._run = run
        self._vaults = vaults
        self._pause_seconds = pause_seconds
        self._stalled_seconds = stalled_seconds
        self._randomness = random.Random(run.seed)  # noqa: S311, repeatable

    async def life(self, *, until: int) -> int:
        """Serves and reads until so many data keys are left, then kills the server. Returns how many were left."""
        with self._serving(TOKEN_ENCRYPTION_KEY=NEW, TOKEN_ENCRYPTION_KEY_PREVIOUS=OLD) as server:
            stopped = asyncio.Event()
            readers = [asyncio.create_task(self._read(server, stopped)) for _ in range(READERS)]
            async with calling(server.target, mint(operator=True)) as operator:
                left = await self._rewrapped(operator, until=until)
            stopped.set()
            await asyncio.gather(*readers)
            server.process.kill()
            self.kills += 0 < left < self._vaults
        return left

    async def _rewrapped(self, operator: Caller, *, until: int) -> int:
        await operator.admin.RotateDataKeys(RotateDataKeysRequest(), metadata=operator.metadata)
        deadline, left = time.monotonic() + self._stalled_seconds, sys.maxsize
        while left > until and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            found = (await self._state(operator)).left_count
            if found < left:
                deadline, left = time.monotonic() + self._stalled_seconds, found
        return left

    @staticmethod
    async def _state(operator: Caller) -> KeyRotation:
        return (await operator.admin.GetKeyRotation(GetKeyRotationRequest(), metadata=operator.metadata)).rotation

    async def _read(self, server: Service, stopped: asyncio.Event) -> None:
        async with calling(server.target) as caller:
            while not stopped.is_set():
                await self._read_one(caller, self._randomness.randrange(self._vaults))

    async def _read_one(self, caller: Caller, number: int) -> bool:
        """Reads the secret of a vault, and returns whether it has its value."""
        metadata = [("authorization", f"Bearer {mint(_vault(number))}")]
        self.reads += 1
        try:
            answer = await caller.vault.GetSecret(GetSecretRequest(name="secret"), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            self.failed[error.code().name] += 1
            return False
        if answer.secret_version.value != _value(number):
            self.failed["another value"] += 1
        return bool(answer.secret_version.value == _value(number))

    async def without_the_old_key(self) -> int:
        """Returns how many of some secrets a server that has the new key alone cannot read."""
        some = self._randomness.sample(range(self._vaults), min(self._vaults, 1000))
        with self._serving(TOKEN_ENCRYPTION_KEY=NEW) as server:
            async with calling(server.target) as caller:
                return sum([not await self._read_one(caller, number) for number in some])

    @contextmanager
    def _serving(self, **environment: str) -> Iterator[Service]:
        whole = environment_of(self._run.directory) | environment
        module = ["harness.torture.rotating", f"--pause-seconds={self._pause_seconds}", f"--mutant={self._run.mutant}"]
        with service(module, self._run.directory, whole) as running:
            yield running
