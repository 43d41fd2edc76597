"""Files of exports: who keeps them, who waits for them, and what is left of them."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1.chat_service_pb2 import CreateSessionRequest
from metamorph_client.chat.v1.message_pb2 import ContentBlock, DocumentBlock
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorphd.durable import Appending, sync_directory
from metamorphd.errors import StoreBusy
from metamorphd.transfers import files, patience
from pyrage import x25519

from tests.support.caller import Caller
from tests.support.exports import export, exported, import_, of_kind
from tests.support.leaving import operation
from tests.support.refusal import refused
from tests.support.secrets import put
from tests.support.serving import Serving, serving

SECONDS = 30
# More than is on its way to a caller who does not read.
LARGE = 8 << 20


def exports_in(directory: Path) -> list[Path]:
    return list((directory / "metamorph.db-exports").rglob("exp_*"))


def open_exports() -> list[str]:
    """Returns the exports that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return [link for link in links if "/exp_" in link]


async def large(caller: Caller) -> None:
    """Stores so much that an export is LARGE."""
    attachment = await caller.upload(b"a" * LARGE, "text/plain")
    block = DocumentBlock(attachment_id=attachment.attachment_id, media_type="text/plain")
    await caller.send((await caller.create_session()).session_id, content=[ContentBlock(document=block)])


async def half_read(caller: Caller) -> tuple[Any, str]:
    """Returns a call that has read the beginning of a complete export and then stops, and the ID of the export."""
    responses = [response async for response in export(caller)]
    export_id = responses[0].export.export_id
    call = aiter(export(caller, export_id=export_id))
    for _ in range(2):
        await anext(call)
    return call, export_id


async def test_who_stops_reading_a_file_keeps_nothing_of_it_once_it_is_replaced(alice: Caller, tmp_path: Path) -> None:
    await large(alice)
    call, _ = await half_read(alice)
    await exported(alice)
    assert (len(exports_in(tmp_path)), open_exports()) == (1, [])
    refusal = await refused(call)
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "EXPORT_NOT_FOUND")


async def test_a_file_that_was_kept_for_long_enough_is_deleted_once_those_who_read_it_have_all(tmp_path: Path) -> None:
    async with serving(tmp_path, export_retention_hours=1) as running:
        alice = running.caller()
        await large(alice)
        whole = await exported(alice)
        call, export_id = await half_read(alice)
        (path,) = exports_in(tmp_path)
        os.utime(path, (0, 0))
        # Longer than the housekeeping takes to come.
        await asyncio.sleep(2.5)
        assert (await refused(export(alice, export_id=export_id))).reason == "EXPORT_NOT_FOUND"
        rest = b"".join([response.data async for response in call])
        assert len(whole) - len(rest) < LARGE // 2
        async with asyncio.timeout(SECONDS):
            while exports_in(tmp_path):  # noqa: ASYNC110, nobody is notified
                await asyncio.sleep(0.05)


async def test_an_export_that_is_cancelled_while_it_gets_its_name_leaves_nothing(
    alice: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sync, named, cancelled = sync_directory, threading.Event(), threading.Event()

    def sync_later(directory: Path) -> None:
        named.set()
        assert cancelled.wait(SECONDS)
        sync(directory)

    monkeypatch.setattr(files, "sync_directory", sync_later)
    begun = (await anext(aiter(export(alice)))).export
    await asyncio.to_thread(named.wait)
    assert [path.suffix for path in exports_in(tmp_path)] == [files.COMPLETE]
    request = pb.CancelOperationRequest(operation_id=begun.operation_id)
    await alice.vault.CancelOperation(request, metadata=alice.metadata)
    cancelled.set()
    async with asyncio.timeout(SECONDS):
        while not (ended := await operation(alice, begun.operation_id)).done:  # noqa: ASYNC110, nobody is notified
            await asyncio.sleep(0.02)
    assert (ended.error.reason, exports_in(tmp_path)) == ("OPERATION_CANCELLED", [])
    assert (await refused(export(alice, export_id=begun.export_id))).reason == "EXPORT_NOT_FOUND"


async def test_others_do_not_wait_for_the_files_of_exports_and_imports(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    append, disk = Appending.append, threading.Event()

    def append_slowly(appending: Appending, data: bytes) -> None:
        assert disk.wait(SECONDS)
        append(appending, data)

    monkeypatch.setattr(Appending, "append", append_slowly)
    callers = [running.caller(vault=f"vault-{number}") for number in range(4)]
    exports = [asyncio.create_task(exported(caller)) for caller in callers]
    imports = [asyncio.create_task(refused(import_(caller, b"no export"))) for caller in callers]
    await asyncio.sleep(0.5)
    alice = running.caller()
    # Large enough to be parsed on a thread.
    request = CreateSessionRequest(session=Session(system_prompt="x" * 90_000))
    async with asyncio.timeout(SECONDS / 2):
        await alice.chat.CreateSession(request, metadata=alice.metadata)
    disk.set()
    assert all(await asyncio.gather(*exports))
    assert {refusal.reason for refusal in await asyncio.gather(*imports)} == {"IMPORT_INVALID"}


@pytest.mark.parametrize("overrides", [{"token_encryption_key": "k" * 32}])
async def test_values_of_secrets_are_read_again_if_the_store_is_busy(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await put(alice, name=f"key-{number}")
    database, busy = running.server._database, list[str]()
    write = database.write

    async def write_later(called: Any, scope: Any, **arguments: Any) -> Any:
        if called.__name__ == "read_secret" and arguments["name"] not in busy:
            busy.append(arguments["name"])
            raise StoreBusy(retry_delay=1.0)
        return await write(called, scope, **arguments)

    monkeypatch.setattr(database, "write", write_later)
    monkeypatch.setattr(patience, "PAUSES_SECONDS", (0.001,))
    data = await exported(alice, secrets_recipient=str(x25519.Identity.generate().to_public()))
    assert [bool(record["sealed_value"]) for record in of_kind(data, "secret_version")] == [True] * 3
    assert busy == ["key-0", "key-1", "key-2"]
