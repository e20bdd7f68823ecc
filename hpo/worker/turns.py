"""Which study each runner of a worker serves next: the one it was started for, or every running one in turn.

A runner belongs to one study at a time: its process has that study's number of threads and objective. So
it stays for a while before it is replaced, because a new process imports torch anew.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hpo.spec import StudySpec
from storage.database.engine import Database, Transaction
from storage.database.errors import DamagedStudyError, DatabaseUnreachableError, UnknownStudyError
from storage.database.records import StudyRow
from storage.queue import studies, waiting
from storage.queue.waiting import Open

log = logging.getLogger(__name__)

POLL = 0.5  # seconds between looks at a study without work, at first
LONGEST = 5.0  # seconds between looks when there has been none for a while
TURN = 60.0  # seconds a runner stays with a study while others wait
_FRESH = 0.1  # seconds for which one look at the studies serves several runners


@dataclass(frozen=True)
class Assignment:
    """One study, as a runner's process is started for it."""

    row: StudyRow
    spec: StudySpec

    @property
    def uid(self) -> str:
        """Tells a study from a later one of the same name."""
        return self.row.uid

    @property
    def study(self) -> str:
        """The study's name."""
        return self.row.name


@dataclass
class Patience:
    """How long to leave a study alone that has no work: longer and longer, and not all workers alike."""

    now: Callable[[], float]  # monotonic time
    changed: Callable[[], bool]  # whether somebody has written to the database since it was last asked
    _waits: float = 0.0  # seconds
    _not_before: float = 0.0
    _look_again: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is time to look."""
        now = self.now()
        if now >= self._not_before:
            return True
        if now >= self._look_again:
            self._look_again = now + POLL
            if self.changed():
                self._not_before = now
                return True
        return False

    def found_nothing(self) -> None:
        """There was no work; several who looked together have looked once."""
        now = self.now()
        if now < self._not_before:
            return
        self._waits = min(LONGEST, max(POLL, 2 * self._waits))
        self.changed()  # what was committed until now has been seen
        self._look_again = now + POLL
        self._not_before = now + self._waits * random.uniform(0.75, 1.0)

    def found_work(self) -> None:
        """There was, or may be, work."""
        self._waits = self._not_before = 0.0


class Turns:
    """Hands out studies to runners, which are known by their index: here the one that a worker is for."""

    def __init__(
        self,
        assignment: Assignment | None,
        now: Callable[[], float] = time.monotonic,
        changed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._only = assignment
        self._now = now
        self._patience = Patience(now, changed)
        self._idle_since: float | None = None

    @property
    def idle(self) -> float:
        """Seconds since nothing was found to claim, and nothing was done."""
        return 0.0 if self._idle_since is None else self._now() - self._idle_since

    def next(self, runner: int) -> Assignment | None:
        """What this free runner shall serve; None when there is nothing for it now."""
        return self._only if self._patience.is_over else None

    def take(self, runner: int, assignment: Assignment) -> None:
        """The runner serves this study now, whoever's turn it is."""

    def started(self, runner: int) -> None:
        """The runner has claimed a ticket."""
        self.found_work()

    def nothing(self, runner: int) -> None:
        """The runner found nothing to claim: its turn is over, and its study is left alone for a moment."""
        self._found_nothing()

    def found_work(self) -> None:
        """A trial begins or has ended, or a runner is brought to one; there may be more."""
        self._patience.found_work()
        self._idle_since = None

    def may_have_work(self) -> None:
        """A beat has seen some."""
        self._patience.found_work()

    def skip(self, assignment: Assignment) -> bool:
        """Serve this study no more; False when that cannot be, because there is no other."""
        return False

    def _found_nothing(self) -> None:
        self._patience.found_nothing()
        self._idle_since = self._now() if self._idle_since is None else self._idle_since


@dataclass(frozen=True)
class _Turn:
    assignment: Assignment
    since: float
    started: bool = False  # its current order has led to a claim


class EveryStudy(Turns):
    """A worker for every running study: the one with the fewest running trials first, then the one that
    has waited longest. A runner stays for `turn` seconds with a study that has work.
    """

    def __init__(
        self,
        database: Database,
        worker_id: str,
        turn: float = TURN,
        now: Callable[[], float] = time.monotonic,
        changed: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(None, now, changed)
        self._database = database
        self._worker_id = worker_id
        self._turn = turn
        self._turns: dict[int, _Turn] = {}
        self._served: dict[str, float] = {}  # when a study last got a runner
        self._resting: dict[str, float] = {}  # studies without work, until then
        self._skipped: set[str] = set()
        self._specs: dict[str, Assignment] = {}
        self._open: list[Open] = []
        self._looked = float("-inf")

    def next(self, runner: int) -> Assignment | None:
        """The runner's own study while its turn lasts; else the one that is worst served."""
        now = self._now()
        mine = self._turns.get(runner)
        if mine is not None and self._serves(mine.assignment.uid, now):
            if not mine.started:  # its process has only just been made for it
                return mine.assignment
            if now - mine.since < self._turn:
                self._turns[runner] = replace(mine, started=False)
                return mine.assignment
        self._turns.pop(runner, None)
        ranked = sorted(
            (one for one in self._look(now) if self._has_room(one, now)),
            key=lambda one: (one.elsewhere + self._runners_at(one.uid), self._served.get(one.uid, 0.0)),
        )
        for one in ranked:
            assignment = self._assignment(one)
            if assignment is not None:
                self._patience.found_work()
                self.take(runner, assignment)
                return assignment
        self._found_nothing()
        return None

    def take(self, runner: int, assignment: Assignment) -> None:
        self._turns[runner] = _Turn(assignment, self._now())
        self._served[assignment.uid] = self._now()

    def started(self, runner: int) -> None:
        self.found_work()
        if runner in self._turns:
            self._turns[runner] = replace(self._turns[runner], started=True)

    def nothing(self, runner: int) -> None:
        turn = self._turns.pop(runner, None)
        if turn is not None:
            self._resting[turn.assignment.uid] = self._now() + POLL

    def skip(self, assignment: Assignment) -> bool:
        self._skipped.add(assignment.uid)
        return True

    def _serves(self, uid: str, now: float) -> bool:
        return uid not in self._skipped and now >= self._resting.get(uid, 0.0)

    def _has_room(self, one: Open, now: float) -> bool:
        """Whether the study has a ticket that no runner of ours is on its way to."""
        coming = sum(turn.assignment.uid == one.uid and not turn.started for turn in self._turns.values())
        return self._serves(one.uid, now) and (one.waiting is None or one.waiting > coming)

    def _runners_at(self, uid: str) -> int:
        return sum(turn.assignment.uid == uid for turn in self._turns.values())

    def _look(self, now: float) -> list[Open]:
        """The studies with work; none while the database is away."""
        if now - self._looked < _FRESH:
            return self._open
        if not self._patience.is_over:
            return []

        def look(connection: Transaction) -> list[Open]:
            return waiting.open_studies(connection, self._worker_id)

        try:
            self._open = self._database.once(look, write=True)
        except DatabaseUnreachableError:
            self._open = []
        self._looked = self._now()
        return self._open

    def _assignment(self, one: Open) -> Assignment | None:
        """The study's spec, read once; None when it has just been deleted or the database is away."""
        if one.uid not in self._specs:
            try:
                row = self._database.once(lambda connection: studies.get(connection, one.name))
                if row.uid != one.uid:
                    return None
                self._specs[one.uid] = Assignment(row, StudySpec.model_validate(row.spec))
            except (DatabaseUnreachableError, UnknownStudyError):
                return None
            except (DamagedStudyError, ValueError) as error:
                log.warning("this worker cannot read %s and leaves it to others: %s", one.name, error)
                self._skipped.add(one.uid)
                return None
        return self._specs[one.uid]
