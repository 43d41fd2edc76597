"""A driver whose client is wrong in the way that its argument names, to see that the suite notices."""

import asyncio
import sys
import uuid
from collections.abc import Callable
from typing import Any

from metamorph_client import MetamorphClient, MetamorphError, calls, connection, identity, replies, resuming

from tests.clients.conformance.drivers.python_async import main

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(make: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[make.__name__] = make
    return make


@mutant
def does_not_resume() -> None:
    async def wait(self: Any, error: MetamorphError) -> None:
        raise error

    resuming.Patience.wait = wait  # type: ignore[method-assign]


@mutant
def repeats_events() -> None:
    resuming._is_next = lambda event, sequence, *, first: True


@mutant
def overlooks_gaps() -> None:
    resuming._is_next = lambda event, sequence, *, first: event.sequence > sequence


@mutant
def takes_the_end_of_a_stream_for_that_of_the_turn() -> None:
    async def is_over(self: Any) -> bool:
        return True

    resuming.Resuming._is_over = is_over  # type: ignore[method-assign]


@mutant
def sends_again_with_another_request_id() -> None:
    stream = calls.IdentifyingChannel.unary_stream

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = stream(self, *args, **kwargs)

        def call(request: Any, **options: Any) -> Any:
            if hasattr(request, "request_id"):
                request.request_id = str(uuid.uuid4())
            return start(request, **options)

        return call

    calls.IdentifyingChannel.unary_stream = changed  # type: ignore[method-assign]


@mutant
def keeps_an_old_token() -> None:
    ask = identity.Identity.metadata

    def kept(self: Any) -> Any:
        if not hasattr(self, "kept"):
            self.kept = ask(self)
        return self.kept

    identity.Identity.metadata = kept  # type: ignore[method-assign]


@mutant
def cancels_what_is_left() -> None:
    async def leave(self: Any) -> None:
        await self.cancel()

    replies.Reply.aclose = leave  # type: ignore[method-assign]


@mutant
def waits_longer_than_its_deadline() -> None:
    connect = calls.IdentifyingChannel.__init__

    def patient(self: Any, connection: Any, identity: Any, timeout: float | None) -> None:
        connect(self, connection, identity, 15 * (timeout or 0))

    calls.IdentifyingChannel.__init__ = patient  # type: ignore[method-assign]


@mutant
def keeps_its_identity() -> None:
    MetamorphClient.with_token = lambda self, token: self  # type: ignore[method-assign]


@mutant
def hopes_for_another_token() -> None:
    identify = identity.Identity.__init__

    def hopeful(self: Any, token: Any, vault: str | None) -> None:
        identify(self, token, vault)
        self.renews_tokens = True

    identity.Identity.__init__ = hopeful  # type: ignore[method-assign]


@mutant
def does_not_notice_that_it_is_closed() -> None:
    connection.Connection.check = lambda self: None  # type: ignore[method-assign]


@mutant
def follows_before_it_is_accepted() -> None:
    begin = resuming.Resuming.begin

    async def begun(self: Any) -> None:
        if self._start is not None:
            await begin(self)

    resuming.Resuming.begin = begun  # type: ignore[method-assign]


@mutant
def waits_for_an_event_to_follow() -> None:
    accepted = resuming.Resuming._step

    async def patient(self: Any) -> Any:
        while (event := await accepted(self)) is None:
            pass
        return event

    resuming.Resuming._step = patient  # type: ignore[method-assign]


@mutant
def waits_for_the_end_of_the_stream() -> None:
    resuming.END_SECONDS = 6


@mutant
def asks_once_for_a_token() -> None:
    vars(resuming)["resumed"] = lambda call: call


@mutant
def forgets_what_is_left() -> None:
    async def left(self: Any) -> None:
        self._over, self._steps = True, None

    resuming.Resuming.aclose = left  # type: ignore[method-assign]


if __name__ == "__main__":
    MUTANTS[sys.argv[1]]()
    asyncio.run(main())
