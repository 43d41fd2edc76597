"""Plays a case: its steps command the driver, or change the world that the client finds."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.clients.conformance.cases import Case
from tests.clients.conformance.driver import Driver
from tests.clients.conformance.matching import differences, resolved
from tests.clients.conformance.world import World, words
from tests.support.proxy import CuttingProxy

# Fields of a step that are not sent to the driver.
OURS = {"as", "expect", "expect_error", "later", "until", "within", "at_least"}
POLL_SECONDS, POLLS = 0.05, 100
# What can happen between a client and its server.
NETWORK: dict[str, Callable[[CuttingProxy, Mapping[str, Any]], None]] = {
    "cut": lambda proxy, step: proxy.cut(),
    "cut after": lambda proxy, step: setattr(proxy, "cut_after", step["bytes"]),
    "down": lambda proxy, step: setattr(proxy, "down", True),
    "up": lambda proxy, step: setattr(proxy, "down", False),
    "mute": lambda proxy, step: setattr(proxy, "muted", True),
    "unmute": lambda proxy, step: setattr(proxy, "muted", False),
    "delay": lambda proxy, step: setattr(proxy, "delay", step["seconds"]),
}


class Playing:
    """One case with one driver."""

    def __init__(self, case: Case, driver: Driver, world: World) -> None:
        self._case = case
        self._driver = driver
        self._world = world
        self._kept: dict[str, Any] = {}
        self._later: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._events: dict[str, list[Any]] = {}

    async def run(self) -> None:
        """Returns once the case is shown to be true. Raises AssertionError otherwise."""
        try:
            for number, step in enumerate(self._case.steps, start=1):
                faults = await self._play(step)
                assert not faults, "\n".join([f"step {number}, {step}:", *faults, self._driver.notes()])
        finally:
            for answer in self._later.values():
                answer.cancel()

    async def _play(self, step: Mapping[str, Any]) -> list[str]:
        if "world" in step:
            return await self._change(step["world"], self._resolved(step))
        if "whole" in step:
            return self._whole(**self._resolved(step))
        if "wait" in step:
            return self._judge(step, await self._later.pop(step["wait"]))
        if "until" in step:
            return await self._poll(step)
        began = time.monotonic()
        answering = self._driver.ask(self._command(step))
        if "later" in step:
            self._later[step["later"]] = answering
            return []
        faults = self._judge(step, await answering)
        took = time.monotonic() - began
        if took > step.get("within", took) or took < step.get("at_least", 0):
            faults.append(f"it took {took:.2f} s")
        return faults

    async def _poll(self, step: Mapping[str, Any]) -> list[str]:
        """Repeats a command until it answers as expected, for five seconds at most."""
        for _ in range(POLLS):
            faults = self._judge({**step, "expect": step["until"]}, await self._driver.ask(self._command(step)))
            if not faults:
                return []
            await asyncio.sleep(POLL_SECONDS)
        return faults

    def _judge(self, step: Mapping[str, Any], answer: dict[str, Any]) -> list[str]:
        if "events" in answer.get("ok", {}):
            self._events.setdefault(step.get("reply", step.get("wait", "")), []).extend(answer["ok"]["events"])
        if "as" in step:
            self._kept[step["as"]] = answer.get("ok", answer.get("error"))
        if "expect_error" in step:
            if "error" not in answer:
                return [f"it succeeds: {answer['ok']!r}"]
            return differences(self._resolved(step["expect_error"]), answer["error"], "the error")
        if "error" in answer:
            return [f"it fails: {answer['error']!r}"]
        return differences(self._resolved(step.get("expect", {})), answer["ok"], "the answer")

    def _command(self, step: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._resolved(value) for key, value in step.items() if key not in OURS}

    def _resolved(self, value: Any) -> Any:
        return resolved(value, lambda name: self._kept[name] if name in self._kept else self._world.named(name))

    def _whole(self, whole: str, start: int = 1, **text: Any) -> list[str]:
        """Returns how the events that were received of a reply differ from each, once, in order, to the end."""
        events = self._events.get(whole, [])
        faults = differences(list(range(start, start + len(events))), [event["sequence"] for event in events])
        if not events or events[-1]["kind"] != "turn_finished":
            faults.append(f"the last event is not turn_finished: {events[-1:]}")
        if text:
            expected = text["text"] if "text" in text else "".join(words(text["words"]))
            found = "".join(event.get("text", "") for event in events if event["kind"] == "text_delta")
            faults += differences(expected, found, "the text")
        return faults

    async def _change(self, what: str, step: Mapping[str, Any]) -> list[str]:
        """Changes the world, or looks at it: returns how it differs from what is expected then."""
        world = self._world
        match what:
            case "stored":
                return [] if await world.stored(step["session_id"], step["messages"]) else ["it is not stored"]
            case "asked":
                return differences(step["expect"], self._asked(), "what was asked")
            case "connections":
                return differences(step["expect"], world.proxy.connections, "the number of connections")
            case "sleep":
                await asyncio.sleep(step["seconds"])
            case "replies":
                world.answer(*step["replies"])
            case "release":
                world.release()
            case "restart":
                await world.restart()
            case "revoke":
                await world.revoke()
            case _:
                NETWORK[what](world.proxy, step)
        return []

    def _asked(self) -> Any:
        """Returns the calls that the fake server received, or how many requests the model did."""
        fake = self._world.fake
        if fake is None:
            return len(self._world.api.requests)
        return [[name, getattr(request, "after_sequence", 0)] for name, request in fake.calls]
