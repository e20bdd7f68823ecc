"""The pulse of the database, taken once for everybody who looks, and told to those whom it concerns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from storage.database.engine import Database, DatabaseUrl, Patience
from storage.database.errors import DatabaseUnreachableError
from storage.database.faults import is_unreachable, unreachable
from storage.history.pulse import Pulse, changed, take_pulse

log = logging.getLogger(__name__)
T = TypeVar("T")

INTERVAL = 0.4  # seconds between two looks while somebody watches
AWAY = "database"  # topic: the database went away or came back
WORKERS = "workers"
STUDIES = "studies"  # any study


def study_topic(name: str) -> str:
    """The topic of one study."""
    return f"study:{name}"


class RetryOnce(Patience):
    """One more try for a connection that had gone stale, then say so: a person is waiting for the page."""

    def __call__(self, url: DatabaseUrl, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            if not is_unreachable(error):
                raise
        try:
            return call()
        except Exception as error:
            if is_unreachable(error):
                raise unreachable(url, error) from error
            raise


class Subscription:
    """What one open page wants to hear."""

    def __init__(self) -> None:
        self.topics: frozenset[str] | None = None  # besides AWAY; None: not known yet, so everything
        self._heard: set[str] = set()
        self._event = asyncio.Event()

    def tell(self, topics: set[str]) -> None:
        """Called by the hub."""
        mine = topics if self.topics is None else topics & {*self.topics, AWAY}
        if mine:
            self._heard |= mine
            self._event.set()

    async def next(self, timeout: float) -> set[str]:
        """Topics that changed since the last call; an empty set after `timeout` seconds of nothing."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return set()
        self._event.clear()
        heard, self._heard = self._heard, set()
        return heard


class Hub:
    """Looks at the database while somebody listens, or while it is away."""

    def __init__(self, database: Database, interval: float = INTERVAL) -> None:
        self._database = database
        self._interval = interval
        self._subscriptions: set[Subscription] = set()
        self._wanted = asyncio.Event()
        self._pulse: Pulse | None = None
        self._has_looked = asyncio.Event()
        self.away: str | None = None  # why the database cannot be reached
        self.closed = False  # the server is going: streams end by themselves

    @contextmanager
    def listen(self) -> Iterator[Subscription]:
        """Hear of changes of the subscription's topics until the block ends."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        self._wanted.set()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def note_away(self, why: str) -> None:
        """A request could not reach the database; look until it is back."""
        if self.away is None:
            self.away = why
            self._tell({AWAY})
        self._wanted.set()

    async def looks(self) -> None:
        """Wait until what changes from now on is told to who listens already."""
        await self._has_looked.wait()

    def close(self) -> None:
        """End every stream; called on the server's own loop."""
        self.closed = True
        self._has_looked.set()
        self._tell({AWAY})

    async def run(self) -> None:
        """Look again and again; ends when cancelled."""
        while True:
            if not self._subscriptions and self.away is None:
                self._wanted.clear()
                self._has_looked.clear()
                self._pulse = None
                await self._wanted.wait()
            began = time.monotonic()
            await self._look()
            if self._pulse is not None or self.away is not None:  # else there is nothing to compare with yet
                self._has_looked.set()
            took = time.monotonic() - began
            await asyncio.sleep(max(self._interval, 4 * took))  # never busier than a fifth of the time

    async def _look(self) -> None:
        try:
            now = await asyncio.to_thread(self._take_pulse)
        except DatabaseUnreachableError as error:
            self.note_away(str(error))
            return
        except Exception:
            log.exception("the database could not be looked at")
            return
        topics: set[str] = set()
        if self.away is not None:
            self.away = None
            topics.add(AWAY)
        if self._pulse is not None:
            names = changed(self._pulse, now)
            topics |= {study_topic(name) for name in names}
            if names:
                topics.add(STUDIES)
            if now.workers != self._pulse.workers:
                topics.add(WORKERS)
        self._pulse = now
        self._tell(topics)

    def _take_pulse(self) -> Pulse:
        before = self._pulse
        return self._database.read(take_pulse, before)

    def _tell(self, topics: set[str]) -> None:
        if topics:
            for subscription in list(self._subscriptions):
                subscription.tell(topics)
