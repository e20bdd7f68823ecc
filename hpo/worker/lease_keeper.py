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

from hpo.studies.steering import why_ended
from hpo.worker.load import Loads
from hpo.worker.registration import bury_dead, neighbours
from storage.database.engine import Database, Transaction
from storage.database.errors import UnknownStudyError
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


@dataclass(eq=False)
class LeaseKeeper:
    """Beats every `interval` seconds from `start` on until stopped; the newest beat is in `latest`.

    Reaps what others let expire, as far as a witness may. A worker of this very host whose process is gone
    is noticed at once.
    """

    database: Database
    worker_id: str
    study: str | None
    lease: float  # seconds
    interval: float
    status: Callable[[], Mapping[str, Any]]
    wake: int  # a descriptor that is written to after a beat
    latest: Beat | None = None

    def __post_init__(self) -> None:
        self._witness = Witness(self.database, self.lease, self.interval)
        self._loads = Loads()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.run, name="lease-keeper", daemon=True)
        self.start = self._thread.start

    def run(self) -> None:
        came_through = self.beat()
        # A beat that was cut off is made up for at once: three in a row would cost every lease.
        while not self._stopped.wait(self.interval * (1.0 if came_through else _SOON)):
            came_through = self.beat()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self._thread.join(timeout=1.0)

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
                os.write(self.wake, b"b")
        try:
            bury_dead(self.database, others)
        except Exception:  # or the thread would end, and every lease with it
            log.exception("dead workers of this host keep their trials for now")
        self._witness.reap()
        return True

    def _look_for_who_blocks(self) -> None:
        """A stopped process that holds SQLite's write lock stalls all: name it."""
        if self._witness.away is None or self._witness.away[0] < self.lease:
            return
        pid = write_lock_holder(self.database.url)
        if pid is None or not is_stopped(pid):
            return
        log.warning("the database is locked%s", held_by(self.database.url))

    def _ask(
        self, connection: Transaction, asked: float
    ) -> tuple[tuple[Beat, Sequence[Neighbour]], float | None]:
        # Tickets before workers, as those who deliver results lock them.
        held = leases.renew(connection, self.worker_id, self.lease)
        status = self.status()
        state, at = workers.beat(connection, self.worker_id, status)
        if state is not None and (samples := self._loads.add(status.get("load", ()))):
            workers.record_load(connection, self.worker_id, samples)
        work = waiting.is_any(connection, self.study)
        others = [one for one in neighbours(connection) if one.id != self.worker_id]
        beat = Beat(asked, frozenset(held), state, self._over(connection), work)
        return (beat, others), at

    def _over(self, connection: Transaction) -> str | None:
        if self.study is None:
            return None
        try:
            row = studies.get(connection, self.study)
        except UnknownStudyError:
            return "the study was deleted"
        return f"the study is {row.state}: {why_ended(row)}" if row.state.ended else None
