"""Follows the logs of vaults from any revision, over any number of connections."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Self

import structlog

from metamorphd.errors import RevisionAhead, RevisionCompacted, ServerDraining
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import Change, ChangeFilter, Changes
from metamorphd.store.changes import find_place, get_revision, list_changes
from metamorphd.store.database import Database

# A page stays in memory until it is sent, for every watcher that does not read.
PAGE_CHANGES = 64
# How long those who watch a few kinds of changes may wait for the revision that they have reached.
BOOKMARK_SECONDS = 10.0
# Changes that no commit of this process has made, those of a newer copy, are found within this time.
LOOK_SECONDS = 2.0
LONGEST_BACKOFF = 5.0
# Watchers of one vault that are woken together. A thousand at once would keep everybody else waiting.
STEP_WATCHERS = 4
STEP_SECONDS = 0.002

logger = structlog.get_logger(__name__)

# Changes that were selected, the revision up to which there are no others, and its mark.
Selected = tuple[list[Change], int, str]


class Watching:
    """Follows vaults for those who watch them, while it is entered.

    A watcher has no queue. The database reports revisions after their commit; then the vault's newest changes are read
    once for all of its watchers. Those who are behind read for themselves, no faster than they are read.
    """

    def __init__(self, *, database: Database, bookmark_seconds: float = BOOKMARK_SECONDS) -> None:
        self._database = database
        self._bookmark_seconds = bookmark_seconds
        self._tails: dict[str, _Tail] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    async def __aenter__(self) -> Self:
        """The store must be open."""
        self._database.listen(self._report)
        self._start(self._look_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends every watcher with ServerDraining."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
        for tail in self._tails.values():
            tail.wake_all()

    @property
    def vaults(self) -> int:
        """Returns the number of vaults that are watched."""
        return len(self._tails)

    async def watch(
        self, scope: Scope, *, after_revision: int | None, after_mark: str = "", wanted: ChangeFilter
    ) -> AsyncGenerator[Selected]:
        """Yields the wanted changes after a revision, or from now on, as they are committed. Never ends by itself.

        `after_mark` is the mark of the revision, or empty if it is not known.

        Yields the revision without changes, a bookmark, once all up to now are yielded, and later `bookmark_seconds`
        after what was yielded last, if only others were made since. Raises RevisionAhead, RevisionCompacted,
        RevisionReplaced, ServerDraining.
        """
        tail = self._tails.setdefault(scope.vault_id, _Tail())
        tail.watchers += 1
        try:
            place = await self._database.read(find_place, scope, after_revision=after_revision, after_mark=after_mark)
            newest, revision, mark = place.newest_revision, place.last_revision, place.mark
            tail.known(newest)
            loop = asyncio.get_running_loop()
            yielded, due, caught_up = revision, loop.time() + self._bookmark_seconds, False
            while True:
                found: list[Change] = []
                if revision < max(newest, tail.revision):
                    changes = tail.after(revision) or await self._read(scope, revision)
                    newest, revision, mark = changes.newest_revision, changes.last_revision, changes.mark or mark
                    found = [change for change in changes.changes if wanted.passes(change)]
                    # They would stay in memory as long as the caller does not read.
                    del changes
                if self._draining:
                    raise ServerDraining(retry_delay=1.0)
                behind = revision < max(newest, tail.revision)
                if found or not (behind or caught_up) or (revision > yielded and loop.time() >= due):
                    caught_up = caught_up or not (behind or found)
                    yield found, revision, mark
                    yielded, due = revision, loop.time() + self._bookmark_seconds
                elif not behind:
                    await tail.changed(revision, until=due if revision > yielded else None)
        finally:
            tail.watchers -= 1
            if not tail.watchers:
                del self._tails[scope.vault_id]

    async def _read(self, scope: Scope, revision: int) -> Changes:
        return await self._database.read(list_changes, scope, after_revision=revision, limit=PAGE_CHANGES)

    def _report(self, vault_id: str, revision: int) -> None:
        tail = self._tails.get(vault_id)
        if tail is not None and revision > tail.reported:
            tail.reported = revision
            if not tail.followed:
                tail.followed = True
                self._start(self._follow(vault_id, tail))

    async def _follow(self, vault_id: str, tail: "_Tail") -> None:
        """Reads what was reported of a vault, until that is all, or nobody watches it."""
        delay = 0.1
        while tail.watchers and tail.revision < tail.reported:
            try:
                after = max(tail.revision, tail.reported - PAGE_CHANGES)
                tail.publish(await self._read(server_scope(vault_id), after))
            except (RevisionAhead, RevisionCompacted):
                # The log is another one, as after a restore. Watchers find out for themselves.
                break
            except Exception as exc:
                logger.warning("watchers wait for the store", vaultId=vault_id, error=type(exc).__name__)
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_BACKOFF)
        tail.followed = False

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for vault_id in list(self._tails):
                # What the store refuses it will answer in the next round.
                with contextlib.suppress(Exception):
                    self._report(vault_id, await self._database.read(get_revision, server_scope(vault_id)))
                # There may be thousands, and the event loop serves all callers.
                await asyncio.sleep(0)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Tail:
    """The newest changes of a vault that is watched, at most a page, and a way to wait for the next ones.

    `reported` is the revision that the database has reported; `followed` says whether a task reads up to it.
    """

    __slots__ = ("_page", "_waiting", "_waking", "followed", "reported", "revision", "watchers")

    def __init__(self) -> None:
        self.watchers = 0
        self.reported = 0
        self.followed = False
        self.revision = 0
        self._page: Changes | None = None
        # Those who wait for the next change, and those who have not been woken since there is one.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._waking: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def known(self, revision: int) -> None:
        """Records a revision that is there to be read, and wakes those who wait for one."""
        if revision > self.revision:
            self.revision = revision
            begun = bool(self._waking)
            self._waking.update(self._waiting)
            self._waiting.clear()
            if not begun:
                self._wake_some()

    def publish(self, changes: Changes) -> None:
        """Keeps changes instead of the earlier ones, and wakes those who wait."""
        self._page = changes
        self.known(changes.last_revision)

    def wake_all(self) -> None:
        """Wakes all who wait, at once."""
        for waiter in (*self._waking, *self._waiting):
            _wake(waiter)
        self._waking.clear()
        self._waiting.clear()

    def _wake_some(self) -> None:
        for _ in range(min(STEP_WATCHERS, len(self._waking))):
            _wake(self._waking.popitem(last=False)[0])
        if self._waking:
            asyncio.get_running_loop().call_later(STEP_SECONDS, self._wake_some)

    def after(self, revision: int) -> Changes | None:
        """Returns the changes after a revision up to a later one, or None if they must be read from the store."""
        changes = None if self._page is None else self._page.after(revision)
        return changes if changes is not None and changes.last_revision > revision else None

    async def changed(self, revision: int, *, until: float | None) -> None:
        """Returns once there is more than a revision, or at a time of the event loop, or after `wake_all`."""
        if self.revision > revision:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            async with asyncio.timeout_at(until):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(waiter, None)
            self._waking.pop(waiter, None)


def _wake(waiter: asyncio.Future[None]) -> None:
    # One that was cancelled is removed once its task runs.
    if not waiter.done():
        waiter.set_result(None)
