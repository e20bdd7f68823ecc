"""Renews the leases from the worker's own process, so that a runner that holds the GIL does not look dead."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.worker.neighbours import bury_dead, neighbours
from storage.database.engine import Database, Transaction
from storage.database.errors import StorageError, UnknownStudyError
from storage.database.records import Lease, WorkerState
from storage.database.sqlite_lock import held_by, is_stopped, write_lock_holder
from storage.queue import leases, studies, waiting, workers
from storage.queue.witness import Witness
from storage.queue.workers import Neighbour

log = logging.getLogger(__name__)

_SOON = 0.2  # of an interval, after a beat that failed


@dataclass(frozen=True)
class Beat:
    """What one successful heartbeat learned."""

    asked: float  # monotonic time before the question
    held: frozenset[Lease]
    worker: WorkerState | None  # None: deleted
    over: str | None  # why the worker's study goes on no more; None: it does, or the worker serves all
    work: bool = False  # a ticket waits that may be claimed


class LeaseKeeper(threading.Thread):
    """Beats every `interval` seconds until stopped; the newest beat is in `latest`.

    Reaps what others let expire, as far as a witness may. A worker of this very host whose process is gone
    is noticed at once.
    """

    def __init__(
        self,
        database: Database,
        worker_id: str,
        study: str | None,
        *,
        lease: float,
        interval: float,
        status: Callable[[], Mapping[str, Any]],
        wake: int,
    ) -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self._database = database
        self._witness = Witness(database, lease, interval)
        self._worker_id = worker_id
        self._study = study
        self._lease = lease
        self._interval = interval
        self._status = status
        self._wake = wake
        self._stopped = threading.Event()
        self.latest: Beat | None = None

    def run(self) -> None:
        came_through = self.beat()
        # A beat that was cut off is made up for at once: three in a row would cost every lease.
        while not self._stopped.wait(self._interval * (1.0 if came_through else _SOON)):
            came_through = self.beat()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self.join(timeout=1.0)

    def beat(self) -> bool:
        """One heartbeat: renew, look, reap. False: the database did not take it."""
        asked = time.monotonic()
        learned = self._witness.beat(lambda connection: self._ask(connection, asked))
        if learned is None:
            self._look_for_who_blocks()
            return False
        self.latest, others = learned
        if not self._stopped.is_set():
            with contextlib.suppress(OSError):
                os.write(self._wake, b"b")
        try:
            bury_dead(self._database, others)
        except StorageError as error:
            log.warning("dead workers of this host keep their trials for now: %s", error)
        except Exception:  # or the thread would end, and every lease with it
            log.exception("dead workers of this host keep their trials for now")
        self._witness.reap()
        return True

    def _look_for_who_blocks(self) -> None:
        """A stopped process that holds SQLite's write lock stalls all: name it."""
        if self._witness.away is None or self._witness.away[0] < self._lease:
            return
        pid = write_lock_holder(self._database.url)
        if pid is None or not is_stopped(pid):
            return
        log.warning("the database is locked%s", held_by(self._database.url))

    def _ask(
        self, connection: Transaction, asked: float
    ) -> tuple[tuple[Beat, Sequence[Neighbour]], float | None]:
        clock = self._database.clock
        # Tickets before workers, as those who deliver results lock them.
        held = leases.renew(connection, clock, self._worker_id, self._lease)
        state, at = workers.beat(connection, clock, self._worker_id, self._status())
        work = waiting.is_any(connection, clock, self._study)
        others = [one for one in neighbours(connection) if one.id != self._worker_id]
        beat = Beat(asked, frozenset(item.lease for item in held), state, self._over(connection), work)
        return (beat, others), at

    def _over(self, connection: Transaction) -> str | None:
        if self._study is None:
            return None
        try:
            row = studies.get(connection, self._study)
        except UnknownStudyError:
            return "the study was deleted"
        return f"the study is {row.state}: {row.ended_why}" if row.state.ended else None
