"""The servers of the suite, which are started when a case first needs them, and the proxy in front of them."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import grpc
from metamorph_client.admin.v1.admin_service_pb2 import RevokeTokensRequest

from tests.support.certificates import Authority
from tests.support.fakes.chat_service import OPEN, FakeChatService, Script, turn
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Behaviour, Refusal, Reply, tool_use
from tests.support.media import png
from tests.support.ports import free_port
from tests.support.proxy import CuttingProxy
from tests.support.serving import Serving, asking
from tests.support.tokens import mint

LARGE_BYTES = 6_000_000
# The server takes a token for so long after its expiry, because clocks differ.
LEEWAY_SECONDS = 30


class World:
    """What the cases act on. Enter it once for all of them, and call `begin` before each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[str, Serving] = {}
        self._files: dict[str, Path] = {}
        self._stack = AsyncExitStack()
        self._restarting = AsyncExitStack()
        self._case = AsyncExitStack()
        self._holds: list[asyncio.Event] = []
        self.vault = ""

    async def __aenter__(self) -> Self:
        self.api = await self._stack.enter_async_context(FakeMessagesApi())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
        await self._restarting.aclose()
        await self._stack.aclose()

    async def begin(self, server: str, scripts: Sequence[Any], vault: str) -> None:
        """Connects the proxy to a server, which answers with echoes until a case sets other replies."""
        self.vault, self._server = vault, server
        self.api.default = None
        self.api.script.clear()
        self.api.requests.clear()
        self.fake: FakeChatService | None = None
        if server == "fake":
            self.fake = await self._case.enter_async_context(FakeChatService(*map(_script, scripts)))
            port = int(self.fake.target.rpartition(":")[2])
        elif server == "none":
            port = free_port()
        else:
            port = (await self._serving(server)).server.grpc_port
        self.direct = f"127.0.0.1:{port}"
        self.proxy = await self._case.enter_async_context(CuttingProxy(port))

    async def end(self) -> None:
        """Leaves nothing of a case behind."""
        self.release()
        await self._case.aclose()

    def named(self, name: str) -> str:
        """Returns what the steps of a case mean by a name. Tokens are of its own vault, or of one beside it."""
        now = int(time.time())
        claims: dict[str, dict[str, Any]] = {
            "token": {},
            "bobs_token": {"vault": f"{self.vault}-bob", "user": "bob"},
            "expired_token": {"exp": now - 100},
            # Whole seconds: it lasts for one to two of them.
            "ending_token": {"exp": now - LEEWAY_SECONDS + 2},
            "reading_token": {"permissions": ["read"]},
            "revoked_token": {"jti": f"revoked-{self.vault}"},
        }
        if name in claims:
            return mint(**{"vault": self.vault, **claims[name]})
        places = {"vault": self.vault, "target": self.proxy.target, "direct": self.direct}
        return places[name] if name in places else str(self._file(name))

    async def revoke(self) -> None:
        """Revokes `revoked_token`, and ends its streams."""
        operator = (await self._serving(self._server)).caller(operator=True)
        request = RevokeTokensRequest(vault_id=self.vault, token_id=f"revoked-{self.vault}")
        await operator.admin.RevokeTokens(request, metadata=operator.metadata)

    async def restart(self) -> None:
        """Stops the server `restarting`, as for a deployment, and starts it again."""
        await self._restarting.aclose()
        del self._servers["restarting"]
        self.proxy.port_behind = (await self._serving("restarting")).server.grpc_port

    async def stored(self, session_id: str, count: int) -> bool:
        """Returns whether a session has so many messages, in five seconds at most."""
        caller = (await self._serving(self._server)).caller(vault=self.vault)
        for _ in range(250):
            if len(await caller.messages(session_id)) == count:
                return True
            await asyncio.sleep(0.02)
        return False

    def answer(self, *described: dict[str, Any]) -> None:
        """Answers the next requests of the model with these replies, the last one also those that follow."""
        *first, last = map(self._reply, described)
        self.api.script.extend(first)
        self.api.default = last

    def _reply(self, described: dict[str, Any]) -> Behaviour:
        """Returns a reply of the model from its description in a case."""
        if "refused" in described:
            return Refusal(described["refused"], "invalid_request_error")
        if "tools" in described:
            calls = [
                tool_use(f"toolu_{number}", name, tool_input)
                for number, (name, tool_input) in enumerate(described["tools"])
            ]
            return Reply(tuple(calls), stop_reason="tool_use")
        chunks = (described["text"],) if "text" in described else words(described["words"])
        hold = asyncio.Event() if "hold_after" in described else None
        if hold is not None:
            self._holds.append(hold)
        return Reply(chunks, delay=described.get("delay", 0), hold=hold, hold_after=described.get("hold_after", 1))

    def release(self) -> None:
        """Lets every reply go on that waits."""
        for hold in self._holds:
            hold.set()
        self._holds.clear()

    async def _serving(self, name: str) -> Serving:
        if name not in self._servers:
            directory = self._directory / name
            directory.mkdir(exist_ok=True)
            stack = self._restarting if name == "restarting" else self._stack
            serving = asking(self.api, directory, **self._settings(name))
            self._servers[name] = await stack.enter_async_context(serving)
        return self._servers[name]

    def _settings(self, name: str) -> dict[str, Any]:
        match name:
            case "dev":
                return {"emblem_dev_mode": True}
            case "crowded":
                return {"max_running_turns": 1}
            case "limited":
                return {"rate_limit_requests": 3, "rate_limit_window_seconds": 3}
            case "tls" | "mtls":
                files = {"grpc_tls_cert": self._file("server_cert"), "grpc_tls_key": self._file("server_key")}
                files |= {"grpc_tls_client_ca": self._file("ca")} if name == "mtls" else {}
                return {setting: str(path) for setting, path in files.items()}
        return {}

    def _file(self, name: str) -> Path:
        if not self._files:
            self._files = _files(self._directory)
        return self._files[name]


def words(count: int) -> tuple[str, ...]:
    """Returns the words of a reply."""
    return tuple(f"word{number} " for number in range(count))


def _files(directory: Path) -> dict[str, Path]:
    """Returns the files that cases name."""
    authority, other = Authority(directory), Authority(directory, "other")
    server_cert, server_key = authority.issue()
    cert, key = authority.issue("client")
    image, large, garbage = directory / "image.png", directory / "large.txt", directory / "garbage.pem"
    image.write_bytes(png())
    large.write_bytes(b"".join(b"%07d\n" % number for number in range(LARGE_BYTES // 8)))
    garbage.write_text("no certificate")
    return {
        "ca": authority.certificate,
        "other_ca": other.certificate,
        "server_cert": server_cert,
        "server_key": server_key,
        "cert": cert,
        "key": key,
        "image": image,
        "large": large,
        "garbage": garbage,
        "missing": directory / "missing.pem",
    }


def _script(described: Sequence[int | str]) -> Script:
    """Returns a stream of the fake server: sequences of events, and the name of a code if it does not end OK.

    One that ends with OPEN does not end.
    """
    script: list[Any] = []
    for step in described:
        script += turn(step) if isinstance(step, int) else [OPEN if step == "OPEN" else grpc.StatusCode[step]]
    return script
