"""Who may call another worker silent: one that has itself seen the database alive for long enough.

Leases expire by the database's clock, so a database that stood still, a machine that slept, or a clock that
was set lets them expire although their workers are well. A witness beats: it writes at an interval, compares
the database's time with a clock that nobody sets and that goes on while the machine sleeps, and begins to
wait anew whenever the two differ or a beat was missed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.engine import Connection

from storage.database.engine import Database
from storage.database.faults import is_unreachable
from storage.queue import leases, workers

log = logging.getLogger(__name__)
T = TypeVar("T")

_BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Seconds since this machine started, those that it slept through included."""
    return time.clock_gettime(_BOOT_CLOCK)


@dataclass(frozen=True)
class Beat:
    """The last heartbeat that the database took."""

    answered: float  # by the boot clock
    at: float  # by the database's


@dataclass(eq=False)
class Witness:
    """Beats for one process, and ends what others let expire."""

    database: Database
    lease: float  # seconds; how long it has to see the database alive before it judges
    interval: float  # seconds between two beats
    now: Callable[[], float] = boot_seconds
    away: tuple[float, Exception] | None = None  # seconds since it was last seen, and why not now
    _is_overdue: bool = False  # at the last beat
    _first: Beat | None = None  # since when the database has been alive and its clock steady
    _last: Beat | None = None

    def __post_init__(self) -> None:
        self._seen = self.now()

    def beat(self, write: Callable[[Connection], tuple[T, float | None]]) -> T | None:
        """Run `write` in a transaction; None when the database is away.

        `write` returns what it learned, with the database's time if it really wrote: somebody who can only
        read does not know whether others can renew their leases.
        """
        asked = self.now()
        try:
            with self.database.transaction() as connection:
                learned, at = write(connection)
                self._is_overdue = workers.is_anything_overdue(connection)
        except Exception as error:
            if not is_unreachable(error):
                log.exception("the heartbeat failed")
            self._first = None
            self.away = self.now() - self._seen, error
            return None
        self._seen, self.away = self.now(), None
        if at is None:
            self._first = None
        else:
            self._saw(asked, Beat(self.now(), at))
        return learned

    def reap(self) -> int:
        """End what others let expire, if this witness has watched for long enough; returns how many."""
        if self._first is None or self._last is None or not self._is_overdue:
            return 0
        watched = self._last.answered - self._first.answered
        if watched < self.lease:
            return 0
        sight = leases.Sight(self._last.at, watched, self.lease)
        try:
            with self.database.transaction() as connection:
                ended = leases.reap_expired(connection, sight)
                workers.mark_silent(connection, sight)
                return ended
        except Exception as error:
            if not is_unreachable(error):
                log.exception("lost workers could not be looked for")
            self._first = None
            return 0

    def _saw(self, asked: float, beat: Beat) -> None:
        first, last = self._first, self._last
        steady = (
            first is not None
            and last is not None
            # Whoever renewed at every third of a lease has two of them left: a shorter gap expires none.
            and beat.answered - last.answered <= 2 * self.interval
            and beat.answered - asked <= self.interval
            and abs((beat.at - first.at) - (beat.answered - first.answered)) <= self.interval / 2
        )
        if not steady:
            self._first = beat
        self._last = beat
