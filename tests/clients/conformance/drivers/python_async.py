"""The driver of MetamorphClient."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

from metamorph_client import MetamorphClient

from tests.clients.conformance.drivers.answering import (
    LISTS,
    Asked,
    Broken,
    Seen,
    Tools,
    as_json,
    calling,
    connection,
    event_of,
    failure,
    listing,
    request_of,
    sending,
    source_of,
    write,
)


class Driver:
    """One client at a time with its other identities, replies and downloads by name. Each command has a method."""

    def __init__(self) -> None:
        self.client = MetamorphClient()
        self._others: dict[str, MetamorphClient] = {}
        self._seen = Seen()
        self._replies: dict[str, Any] = {}
        self._downloads: dict[str, tuple[AsyncGenerator[bytes], bytearray]] = {}

    def _by(self, asked: Asked) -> MetamorphClient:
        """Returns the client that a command names."""
        return self._others[asked["by"]] if "by" in asked else self.client

    async def do_connect(self, asked: Asked) -> Any:
        await self.client.close()
        self._seen, self._replies, self._downloads, self._others = Seen(), {}, {}, {}
        self.client = MetamorphClient(**connection(asked, self._seen))
        return {}

    async def do_as(self, asked: Asked) -> Any:
        self._others[asked["name"]] = self.client.with_token(self._seen.token(asked["token"]))
        return {}

    async def do_close(self, asked: Asked) -> Any:
        closing = asyncio.create_task(self._close(self._by(asked), asked.get("after", 0)))
        if "after" in asked:
            self._closing = closing
        else:
            await closing
        return {}

    async def _close(self, client: MetamorphClient, after: float) -> None:
        await asyncio.sleep(after)
        await client.close()

    async def do_call(self, asked: Asked) -> Any:
        stub = getattr(self._by(asked), asked["service"])
        request = request_of(asked)
        response = await getattr(stub, asked["method"])(request, **calling(asked))
        return {"response": as_json(response)}

    async def do_stream(self, asked: Asked) -> Any:
        stub = getattr(self._by(asked), asked["service"])
        responses = getattr(stub, asked["method"])(request_of(asked), **calling(asked))
        return {"responses": [as_json(response) async for response in responses]}

    async def do_create_session(self, asked: Asked) -> Any:
        fields = {name: value for name, value in asked.items() if name not in ("id", "do", "by")}
        return {"session": as_json(await self._by(asked).create_session(**fields))}

    async def do_start(self, asked: Asked) -> Any:
        reply = await self._by(asked).start(**sending(asked))
        self._replies[asked["reply"]] = reply
        return {"turn_id": reply.turn_id}

    async def do_send(self, asked: Asked) -> Any:
        self._replies[asked["reply"]] = self._by(asked).send(**sending(asked))
        return {}

    async def do_regenerate(self, asked: Asked) -> Any:
        reply = await self._by(asked).regenerate(**sending(asked))
        self._replies[asked["reply"]] = reply
        return {"turn_id": reply.turn_id}

    async def do_follow(self, asked: Asked) -> Any:
        reply = await self._by(asked).follow(asked["turn_id"], asked.get("after_sequence", 0))
        self._replies[asked["reply"]] = reply
        return {"turn_id": reply.turn_id}

    async def do_next(self, asked: Asked) -> Any:
        events: list[Any] = []
        try:
            while len(events) < asked.get("count", sys.maxsize):
                events.append(event_of(await anext(self._replies[asked["reply"]])))
        except StopAsyncIteration:
            return {"events": events, "ended": True}
        except Exception as exc:
            raise Broken(exc, events) from exc
        return {"events": events, "ended": False}

    async def do_final(self, asked: Asked) -> Any:
        return {"turn_finished": as_json(await self._replies[asked["reply"]].final())}

    async def do_text(self, asked: Asked) -> Any:
        return {"text": "".join([part async for part in self._replies[asked["reply"]].text()])}

    async def do_cancel(self, asked: Asked) -> Any:
        if "turn_id" in asked:
            return {"turn": as_json(await self._by(asked).cancel(asked["turn_id"]))}
        return {"turn": as_json(await self._replies[asked["reply"]].cancel())}

    async def do_abort(self, asked: Asked) -> Any:
        await self._replies[asked["reply"]].aclose()
        return {}

    async def do_list(self, asked: Asked) -> Any:
        method = getattr(self._by(asked), LISTS[asked["what"]])
        return await self._taken(method(**listing(asked)), asked)

    async def do_pages(self, asked: Asked) -> Any:
        method = getattr(getattr(self._by(asked), asked["service"]), asked["method"])
        return await self._taken(self._by(asked).pages(method, request_of(asked)), asked)

    async def _taken(self, items: AsyncGenerator[Any], asked: Asked) -> Any:
        taken: list[Any] = []
        async for item in items:
            taken.append(as_json(item))
            if len(taken) == asked.get("take"):
                break
        await items.aclose()
        return {"items": taken}

    async def do_upload(self, asked: Asked) -> Any:
        source = source_of(asked)
        return {"attachment": as_json(await self._by(asked).upload(source, media_type=asked["media_type"]))}

    async def do_download(self, asked: Asked) -> Any:
        self._downloads[asked["download"]] = self._by(asked).download(asked["attachment_id"]), bytearray()
        return {}

    async def do_read(self, asked: Asked) -> Any:
        chunks, found = self._downloads[asked["download"]]
        left, ended = asked.get("count", sys.maxsize), False
        while left and not ended:
            chunk = await anext(chunks, None)
            found += chunk or b""
            left, ended = left - 1, chunk is None
        return {"size": len(found), "sha256": hashlib.sha256(found).hexdigest(), "ended": ended}

    async def do_run_tools(self, asked: Asked) -> Any:
        tools = Tools()
        more = {"max_rounds": asked["max_rounds"]} if "max_rounds" in asked else {}
        finished = await self._by(asked).run_tools(tools=tools.chosen(asked["tools"]), **sending(asked), **more)
        return {"turn_finished": as_json(finished), "calls": tools.calls, "most_at_once": tools.most_at_once}

    async def do_seen(self, asked: Asked) -> Any:
        return {"retries": self._seen.retries, "tokens": self._seen.tokens}


async def main() -> None:
    driver = Driver()
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        try:
            answer = {"ok": await getattr(driver, f"do_{asked['do']}")(asked)}
        except Exception as exc:
            answer = failure(exc)
        write({"id": asked["id"], **answer})
    await driver.client.close()


if __name__ == "__main__":
    asyncio.run(main())
