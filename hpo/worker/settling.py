"""How dead runners' attempts ended, recorded as soon as the database can be told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hpo.runner.messages import Started
from storage.database.engine import Database, Transaction
from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError
from storage.queue import outcomes, workers
from storage.queue.attempts import end_if_live

log = logging.getLogger(__name__)

_AGAIN_AFTER = 1.0  # seconds between tries while the database is away


class Settlements:
    """What waits to be written. Never blocks: the worker's loop must heed signals meanwhile."""

    def __init__(self, database: Database, worker_id: str) -> None:
        self._database = database
        self._worker_id = worker_id
        self._waiting: list[Callable[[Transaction], Any]] = []
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def died(self, current: Started, why: str, *, blame: bool) -> None:
        """A runner died during an attempt; `blame`: the trial is at fault."""
        clock, lease = self._database.clock, current.lease
        if blame:
            verb = partial(outcomes.fail, clock=clock, lease=lease, error=why)
        else:
            verb = partial(outcomes.lose, clock=clock, lease=lease, why=why)
        self._add(partial(end_if_live, lease=lease, verb=verb))

    def died_unannounced(self, runner: int, why: str, *, gave_up: bool) -> None:
        """A runner died between its claim and its word of it: its lease is found by worker and runner.

        `gave_up`: it could not use the database, which counts against nothing.
        """
        clock = self._database.clock
        end = outcomes.release if gave_up else outcomes.lose

        def free(connection: Transaction) -> None:
            for lease in workers.leases_of_runner(connection, self._worker_id, runner):
                end_if_live(connection, lease, partial(end, clock=clock, lease=lease, why=why))

        self._add(free)

    def given_back(self, current: Started, why: str) -> None:
        """The worker itself ended the runner and gives the ticket back."""
        verb = partial(outcomes.release, clock=self._database.clock, lease=current.lease, why=why)
        self._add(partial(end_if_live, lease=current.lease, verb=verb))

    def noted(self, reason: str) -> None:
        """What people should know of this worker, for `hpo workers`."""
        self._add(partial(workers.note, worker_id=self._worker_id, reason=reason))

    def runners(self, processes: Sequence[tuple[int, float]]) -> None:
        """The processes of the runners; none of them gets a trial before this is written."""
        self._add(partial(workers.record_runners, worker_id=self._worker_id, runners=processes))

    def settle(self) -> None:
        """Write what waits; while the database is away, keep it for later."""
        while self._waiting and time.monotonic() >= self._not_before:
            try:
                self._database.once(self._waiting[0], write=True)
            except DatabaseUnreachableError:
                self._not_before = time.monotonic() + _AGAIN_AFTER
                return
            except DatabaseFaultError as error:
                log.warning("a trial is freed when its lease expires: %s", error)
            self._waiting.pop(0)

    def _add(self, ending: Callable[[Transaction], Any]) -> None:
        self._waiting.append(ending)
        self.settle()
