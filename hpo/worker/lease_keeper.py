"""Renews the leases from the worker's own process, so that a runner that holds the GIL does not look dead."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from hpo.worker.identity import host_key, is_alive
from storage import leases, studies, workers
from storage.clock import Clock
from storage.engine import Database, is_unreachable
from storage.errors import UnknownStudyError
from storage.records import Lease, WorkerState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beat:
    """What one successful heartbeat learned."""

    asked: float  # monotonic time before the question
    held: frozenset[Lease]
    worker: WorkerState | None  # None: deleted
    over: str | None  # why the worker's study goes on no more; None: it does, or the worker serves all


class LeaseKeeper(threading.Thread):
    """Beats every `interval` seconds until stopped; the newest beat is in `latest`.

    Reaps what others let expire, but only after it has seen the database alive for one whole lease:
    after an outage, or a laptop's sleep, everybody first gets the chance to renew. A worker of this
    very host whose process is gone is noticed at once.
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
        self._worker_id = worker_id
        self._study = study
        self._lease = lease
        self._interval = interval
        self._status = status
        self._wake = wake
        self._stopped = threading.Event()
        self._alive_since: float | None = None
        self._last_ok: float | None = None
        self.latest: Beat | None = None

    def run(self) -> None:
        self.beat()
        while not self._stopped.wait(self._interval):
            self.beat()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self.join(timeout=1.0)

    def beat(self) -> None:
        """One heartbeat: renew, look, reap. A database that is away is tried again at the next."""
        asked = time.monotonic()
        try:
            with self._database.transaction() as connection:
                beat = self._ask(connection, asked)
        except Exception as error:
            if not is_unreachable(error):
                log.exception("the heartbeat failed")
            self._alive_since = None
            return
        now = time.monotonic()
        # Whoever renewed at every interval has two of them left: a shorter outage expires no lease.
        gap = self._last_ok is not None and now - self._last_ok > 2 * self._interval
        if self._alive_since is None or gap or now - asked > self._interval:
            self._alive_since = now
        self._last_ok = now
        self.latest = beat
        if not self._stopped.is_set():
            with contextlib.suppress(OSError):
                os.write(self._wake, b"b")
        if now - self._alive_since > self._lease:
            self._reap()

    def _reap(self) -> None:
        """End what others let expire; not when the database stood still since our own beat."""
        clock = self._database.clock
        try:
            with self._database.transaction() as connection:
                leases.reap_expired(connection, clock, witness=self._worker_id, within=self._interval)
                workers.mark_silent(connection, clock, self._lease)
        except Exception as error:
            if not is_unreachable(error):
                log.exception("lost workers could not be looked for")
            self._alive_since = None

    def _ask(self, connection: Connection, asked: float) -> Beat:
        clock = self._database.clock
        # Tickets before workers, as those who deliver results lock them.
        held = leases.renew(connection, clock, self._worker_id, self._lease)
        state = workers.beat(connection, clock, self._worker_id, self._status())
        bury_dead_neighbours(connection, clock, self._worker_id)
        return Beat(asked, frozenset(item.lease for item in held), state, self._over(connection))

    def _over(self, connection: Connection) -> str | None:
        if self._study is None:
            return None
        try:
            row = studies.get(connection, self._study)
        except UnknownStudyError:
            return "the study was deleted"
        return f"the study is {row.state}: {row.ended_why}" if row.state.ended else None


def bury_dead_neighbours(connection: Connection, clock: Clock, worker_id: str) -> None:
    """Free the tickets of this host's other workers whose processes are gone."""
    for other, pid, started in workers.of_host(connection, host_key()):
        if other != worker_id and not is_alive(pid, started):
            workers.bury(connection, clock, other)
