"""Clients of every language behave alike: each passes the same cases, with real servers and a bad network."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.clients.conformance.cases import Case, cases
from tests.clients.conformance.driver import Driver
from tests.clients.conformance.languages import LANGUAGES, SKIPPED, mutant_of_python
from tests.clients.conformance.playing import Playing
from tests.clients.conformance.world import World
from tests.support.paths import ROOT

CASES = cases()
# What a client may do wrong, and a case that notices it.
MUTANTS = {
    "does_not_resume": "a_reply_survives_connections_that_are_cut_several_times",
    "repeats_events": "an_event_that_is_repeated_is_left_out",
    "overlooks_gaps": "a_stream_that_leaves_out_an_event_is_continued_from_there",
    "takes_the_end_of_a_stream_for_that_of_the_turn": "a_stream_that_ends_too_early_is_continued",
    "sends_again_with_another_request_id": "a_send_whose_response_was_lost_takes_effect_once",
    "keeps_an_old_token": "a_function_is_asked_for_a_token_for_every_call",
    "cancels_what_is_left": "leaving_a_reply_does_not_stop_its_turn",
    "waits_longer_than_its_deadline": "a_call_without_a_deadline_has_the_clients",
    "keeps_its_identity": "another_identity_shares_the_connection",
    "hopes_for_another_token": "an_expired_token_that_is_text_is_reported_at_once",
    "does_not_notice_that_it_is_closed": "a_reply_ends_when_its_client_is_closed",
    "follows_before_it_is_accepted": "follow_is_refused_before_anything_streams",
    "waits_for_an_event_to_follow": "follow_does_not_wait_for_the_next_event",
    "waits_for_the_end_of_the_stream": "a_stream_that_stays_open_after_the_end_is_left",
    "asks_once_for_a_token": "a_token_function_that_fails_is_asked_again_while_a_reply_is_resumed",
    "forgets_what_is_left": "a_reply_that_was_left_is_taken_up_again",
}


def test_the_page_lists_every_case() -> None:
    page = (ROOT / "docs" / "clients.md").read_text().partition("## What all of them do")[2]
    assert [line[2:] for line in page.splitlines() if line.startswith("- ")] == [case.sentence for case in CASES]


class Drivers:
    """A driver for each language, used for one case after the other, and replaced if a case has failed."""

    def __init__(self, running: AsyncExitStack) -> None:
        self._running = running
        self._drivers: dict[str, Driver] = {}

    async def of(self, language: str) -> Driver:
        if language not in self._drivers or self._drivers[language].stopped:
            self._drivers[language] = await self._running.enter_async_context(Driver(LANGUAGES[language]()))
        return self._drivers[language]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with World(tmp_path_factory.mktemp("conformance")) as entered:
        yield entered


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def drivers() -> AsyncIterator[Drivers]:
    async with AsyncExitStack() as running:
        yield Drivers(running)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.subject}-{case.name}".replace(" ", "_"))
async def test_the_case_holds(language: str, case: Case, world: World, drivers: Drivers) -> None:
    if reason := SKIPPED.get((language, case.name)):
        pytest.skip(reason)
    driver = await drivers.of(language)
    await world.begin(case.server, case.scripts, f"{language}-{CASES.index(case)}")
    try:
        await Playing(case, driver, world).run()
    except BaseException:
        driver.stop()
        raise
    finally:
        await world.end()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("mutant", "name"), MUTANTS.items())
async def test_a_client_that_is_wrong_is_noticed(mutant: str, name: str, world: World) -> None:
    case = next(case for case in CASES if case.name == name)
    await world.begin(case.server, case.scripts, mutant)
    async with Driver(mutant_of_python(mutant)) as driver:
        with pytest.raises(AssertionError, match="step"):
            await Playing(case, driver, world).run()
        driver.stop()
    await world.end()
