"""The broker: the part of a worker that speaks to the database for its runners.

The worker's loop hears the runners and hands on what they say; it never waits for the database. One thread,
the clerk's, writes: what came during a commit goes into the next one. The asker has samplers choose, the
housekeeper removes files, each in a thread of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from hpo.runner.messages import Numbered, ToRunner
from hpo.worker.asker import Asker
from hpo.worker.clerk import Clerk, Item, Left, Own, Said
from hpo.worker.desk import Desk
from hpo.worker.dispatch import Order
from hpo.worker.housekeeping import Housekeeper
from storage.database.engine import Database, Patience
from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError
from storage.database.records import AttemptState, Need
from storage.queue import workers
from storage.queue.tickets import Takes

log = logging.getLogger(__name__)

LEAVE_WITHIN = 5.0  # seconds that an orderly end waits for a database that is away


class Broker:
    """Claims, suggestions, pruning and writes for the runners of one worker, which it wakes for news.

    While the database is away it goes on trying, until it is closed. A lease is given in seconds.
    """

    def __init__(self, database: Database, worker_id: str, lease: float, wake: Callable[[], None]) -> None:
        self.events: deque[tuple[Desk, Any]] = deque()  # (desk, Started | Ended | NothingToClaim | Broken)
        self._database = database
        self._worker_id = worker_id
        self._wake = wake
        self._inbox: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._desks: frozenset[Desk] = frozenset()
        self._is_woken = False  # the loop will look for what was said until now
        self._left = 0  # runners that are gone
        self._housekeeper = Housekeeper(database)
        self._asker = Asker(self._inbox.put, self._say)
        threads = self._asker, self._housekeeper
        self._clerk = Clerk(database, worker_id, lease, *threads, self._say, self._tell_all)
        self._thread = threading.Thread(target=self._keep_writing, name="clerk", daemon=True)
        self._thread.start()

    def seat(self, desk: Desk) -> None:
        """A runner has been started."""
        self._desks |= {desk}

    def unseat(self, desk: Desk) -> None:
        """A lane of a runner is not used; it has said nothing."""
        self._desks -= {desk}

    def order(self, desks: Sequence[Desk], takes: Takes = None) -> None:
        """Claim tickets of these needs for free places of a runner: an event of each says what came of it."""
        self._inbox.put(Order(desks, takes))

    def hear(self, desk: Desk, message: Numbered) -> None:
        """A runner said something of its attempt."""
        self._inbox.put(Said(desk, message))

    def leave(
        self, desk: Desk, state: AttemptState, why: str, *, blames: bool = True, need: Need = Need.NOTHING
    ) -> None:
        """A runner is gone, and everything it said was heard: what it holds ends so.

        `blames`: a failure may be this machine's fault. `need`: it is set aside, and counts against nothing.
        """
        self._desks -= {desk}
        self._left += 1
        self._inbox.put(Left(desk, state, why, blames, need))

    def drain(self) -> None:
        """Claim nothing more."""
        self._clerk.dispatch.is_draining = True

    @property
    def unsettled(self) -> int:
        """Runners whose end is not written yet: none of their leases must pass to a successor."""
        return self._left - self._clerk.settled

    def note(self, reason: str) -> None:
        """What people should know of this worker, for `hpo workers`."""
        self._inbox.put(Own(partial(workers.note, worker_id=self._worker_id, reason=reason)))

    def record_runners(self, processes: Sequence[tuple[int, float]]) -> None:
        """The processes of the runners; none of them gets a trial before this is written."""
        verb = partial(workers.record_runners, worker_id=self._worker_id, runners=list(processes))
        self._inbox.put(Own(verb))

    def close(self, *, hurry: bool) -> None:
        """Write what waits and end; `hurry`: a database that is away is not waited for."""
        self._inbox.put(None)
        self._thread.join(1.0 if hurry else LEAVE_WITHIN)
        self._database.patience.give_up.set()
        self._thread.join(LEAVE_WITHIN)
        self._asker.close()
        self._database.patience = Patience()
        self._housekeeper.close(hurry=hurry)

    def _keep_writing(self) -> None:
        ending = False
        while not ending:
            items = [self._inbox.get()]
            while not self._inbox.empty():
                items.append(self._inbox.get())
            ending = None in items
            try:
                self._clerk.handle([item for item in items if item is not None])
            except DatabaseUnreachableError as error:
                log.warning("told to leave while the database is away: %s", error)
            except Exception as error:  # or the thread would end, and every runner wait for it for ever
                log.exception("the broker met an error of its own")
                self._clerk.fail(items, DatabaseFaultError(f"{type(error).__name__}: {error}"))

    def _tell_all(self, message: ToRunner) -> None:
        for desk in self._desks:
            desk.tell(message)

    def heard(self) -> Iterator[tuple[Desk, Any]]:
        """What came of what was asked or told, for the worker's loop."""
        self._is_woken = False  # before it looks: what is said from now on wakes it again
        while self.events:
            yield self.events.popleft()

    def _say(self, desk: Desk, event: Any) -> None:
        self.events.append((desk, event))
        if not self._is_woken:
            self._is_woken = True
            self._wake()
