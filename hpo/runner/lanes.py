"""A runner that trains several trials at once, each in a lane of its own.

A thread for each lane begins and ends attempts, as a runner with one place does: each has a voice, a lease
and a result of its own. In between it waits for its trial, which the main thread trains with others of the
same `lane_key`, in one call of `objective_many`.
"""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpo.errors import HpoError
from hpo.runner import devices
from hpo.runner.checkpoint import Memory
from hpo.runner.interrupt import Interrupted, Urgency
from hpo.runner.link import Link
from hpo.runner.messages import Joined, Quit, Ready
from hpo.runner.output import SharedLog
from hpo.runner.session import Session, seed_everything
from hpo.runner.trial import RunningTrial
from hpo.runner.values import TogetherError, told
from storage.database.records import Need

SETTLE = 0.05  # seconds in which nobody comes: then those who have come begin
PAYS = 4.0  # trials in a stack, in the mean: fewer gain little, or nothing


def places(session: Session) -> tuple[int, str | None]:
    """How many trials the runner takes at once, and a sentence about it where the study asks for lanes."""
    wanted, points = session.served.lanes, session.served.points
    if wanted == 1:
        return 1, None
    if session.objective.many is None:
        if points:
            return 1, "trials are trained one by one: the objective has no objective_many and lane_key"
        raise HpoError(
            f"lanes: {wanted} needs an objective whose module exports objective_many(lanes) and "
            f"lane_key(config); {session.served.objective} does not. Leave lanes out, or set it to auto"
        )
    if not points:
        return wanted, None
    keys = Counter(_key_of(session, config) for config in points)
    apart = keys.pop(None, 0)
    share = wanted / len(points)  # of those drawn so many stand for the lanes
    mean = (sum(count * max(1.0, count * share) for count in keys.values()) + apart) / len(points)
    if mean < PAYS:
        return 1, (
            f"trials are trained one by one: of {wanted} points of the space {mean:.1f} in the mean "
            "could be trained together"
        )
    return wanted, f"up to {wanted} trials are trained at once"


def _key_of(session: Session, config: Any) -> Any:
    """What a setting must share with others; None where it cannot be trained with any, or not at all."""
    assert session.objective.lane_key is not None
    try:
        return session.objective.lane_key(config)
    except Exception:  # its objective says it better
        return None


def work(session: Session, count: int, note: str | None) -> None:
    """Run what the worker hands out, up to `count` trials at once, until it says to quit.

    Raises:
        BaseException: what ended the work of one lane, as `Session.run` raises it.
    """
    pool = Pool(session, count)
    links = [session.link, *(session.link.lane() for _ in range(1, count))]
    session.link.tell(Ready(dict(session.code), count, note))
    for slot, link in enumerate(links):
        if slot:
            link.tell(Ready())
        own = session.lane(link, pool)
        threading.Thread(target=pool.serve, args=(own,), name=f"lane {slot}", daemon=True).start()
    pool.run()


@dataclass(eq=False)
class _Seat:
    """A trial in the pool."""

    trial: RunningTrial
    link: Link
    key: Any = None
    is_looked_at: bool = False  # whether its key is known
    is_taken: bool = False  # it is being trained
    over: threading.Event = field(default_factory=threading.Event)
    outcome: Callable[[], Any] | None = None  # returns its value, or raises what ended it


class Pool:
    """The trials that lanes have begun: those of one key are trained together, one key after the other.

    Args:
        session: of the runner.
        most: lanes.
    """

    def __init__(self, session: Session, most: int) -> None:
        self.log = SharedLog(session.served.log)
        self.memory = Memory()
        self.most = most
        self._session = session
        self._changed = threading.Condition()
        self._waiting: list[_Seat] = []
        self._busy = 0  # lanes that have an attempt
        self._is_leaving = False
        self._trains = False  # and so sends what lanes say, soon
        self._error: BaseException | None = None

    # What a lane's thread does

    def serve(self, session: Session) -> None:
        """Run attempts in one lane, until the runner leaves."""
        try:
            while not isinstance(order := session.link.orders.get(), Quit):
                with self._changed:
                    self._busy += 1
                try:
                    session.run(order)  # type: ignore[arg-type]  # a Task: nothing else is put there
                finally:
                    with self._changed:
                        self._busy -= 1
                        self._is_leaving |= session.needs_restart
                        self._changed.notify_all()
                with self._changed:
                    if self._is_leaving:
                        return
                    session.link.tell(Ready(lanes=self.most), more=self._trains)
            self._leave(None)
        except BaseException as error:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = self._error or error
            self._is_leaving = True
            self._changed.notify_all()

    def enter(self, link: Link, trial: RunningTrial) -> Any:
        """Have a trial trained; returns its value or raises what ended it, as its objective would."""
        seat = _Seat(trial, link)
        with self._changed:
            self._waiting.append(seat)
            self._changed.notify_all()
        try:
            link.hold(lambda: seat.is_taken)
        except Interrupted:
            with self._changed:
                if not seat.is_taken:
                    self._waiting.remove(seat)
                    raise
        if self._session.served.timed:
            link.tell(Joined(), more=True)
        seat.over.wait()
        assert seat.outcome is not None
        return seat.outcome()

    # What the main thread does

    def run(self) -> None:
        """Train what comes until the runner leaves; raises what ended the work of a lane."""
        while seats := self._next():
            self._trains = True
            self._train(seats)
            with self._changed:
                self._trains = False
            self.send()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
        if self._error is not None:
            raise self._error

    def _next(self) -> list[_Seat]:
        """Those who begin together, taken; none when the runner leaves."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or (self._is_leaving and not self._busy))
            there = 0
            while there < len(self._waiting) < self.most:
                there = len(self._waiting)
                self._changed.wait_for(lambda: len(self._waiting) > there, SETTLE)  # noqa: B023 -- asked now
        self.look()
        with self._changed:
            keys = [seat.key for seat in self._waiting]
            if not keys:
                return [] if self._is_leaving and not self._busy else self._next()
            key = max(keys, key=lambda one: (one is not None) * keys.count(one))
        return self.take(key, 1 if key is None else self.most)

    def send(self) -> None:
        """Send what the lanes have said and nobody waits for."""
        self._session.link.send()

    def look(self) -> None:
        """Find the keys of those who came. Not in their threads: to build a model draws random numbers."""
        for seat in list(self._waiting):
            if not seat.is_looked_at:
                seat.key, seat.is_looked_at = _key_of(self._session, seat.trial.config), True

    def take(self, key: Any, count: int) -> list[_Seat]:
        """Up to `count` of those who wait with this key; they are trained now."""
        with self._changed:
            taken = [seat for seat in self._waiting if seat.is_looked_at and seat.key == key][:count]
            for seat in taken:
                self._waiting.remove(seat)
                seat.is_taken = True
        for seat in taken:
            seat.link.nudge()
        return taken

    def _train(self, seats: Sequence[_Seat]) -> None:
        objective, key = self._session.objective, seats[0].key
        seed_everything(seats[0].trial.seed)
        lanes = Lanes(self, seats, key)
        try:
            if key is None:
                (seat,) = seats
                with lanes.only(seat.trial):
                    lanes.done(seat.trial, objective.call(seat.trial))
            else:
                assert objective.many is not None
                objective.many(lanes)
        except BaseException as error:
            self._failed(lanes, error)
        for trial in lanes:
            with lanes.only(trial):
                raise RuntimeError(f"objective_many returned, and trial {trial.number} has not ended")

    def _failed(self, lanes: Lanes, error: BaseException) -> None:
        """What trained several has raised: with one left it is that one's error, else nobody's."""
        left = list(lanes)
        if len(left) > 1 and not isinstance(error, Interrupted):
            need, why = Need.RUNNER, told(error)
            if isinstance(error, MemoryError) or devices.out_of_device_memory(error):
                self.most = max(1, len(left) // 2)
                need, why = Need.NOTHING, f"out of memory with {len(left)} trials at once: {why}"
            print(why, file=sys.stderr)
            error = TogetherError(f"of {len(left)} trials that were trained together: {why}", need)
        for trial in left:
            lanes.end(trial, error)
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def is_broken(self) -> bool:
        """Whether a lane has met what lets none of them go on."""
        return self._error is not None


class Lanes:
    """Trials that are trained together (see `objectives.protocol.Lanes`)."""

    def __init__(self, pool: Pool, seats: Sequence[_Seat], key: Any) -> None:
        self._pool, self._key = pool, key
        self._new = [seat.trial for seat in seats]
        self._seats = {seat.trial: seat for seat in seats}

    def __len__(self) -> int:
        """How many go on."""
        return len(self._seats)

    def __iter__(self) -> Iterator[RunningTrial]:
        """Those that go on."""
        return iter(list(self._seats))

    def __contains__(self, trial: object) -> bool:
        """Whether it goes on."""
        return trial in self._seats

    def joined(self) -> list[RunningTrial]:
        """Those that have not begun: at first all, later whoever has taken a place that was free."""
        self._pool.send()
        if not self._new and len(self) < self._pool.most:
            self._pool.look()
            for seat in self._pool.take(self._key, self._pool.most - len(self)):
                self._seats[seat.trial] = seat
                self._new.append(seat.trial)
        new, self._new = self._new, []
        return new

    @contextmanager
    def only(self, trial: RunningTrial) -> Iterator[None]:
        """What is raised in this block ends this trial alone."""
        try:
            yield
        except BaseException as error:
            self.end(trial, error)

    def done(self, trial: RunningTrial, value: Any) -> None:
        """The trial's value; or what returns it, to be called while others are trained."""
        context = contextvars.copy_context()  # relative paths begin where they do here
        self._over(trial, partial(context.run, value) if callable(value) else lambda: value)

    def check(self) -> None:
        """Call between batches: drops those that must stop; raises Interrupted when none is left."""
        self._pool.send()
        for trial, seat in list(self._seats.items()):
            if seat.link.stop.urgency is not Urgency.NONE:
                with self.only(trial):
                    trial.check()
        if not self._seats or self._pool.is_broken:
            raise Interrupted("none of these trials goes on")

    def end(self, trial: RunningTrial, error: BaseException) -> None:
        """This has ended the trial."""

        def outcome() -> Any:
            raise error

        self._over(trial, outcome)

    def _over(self, trial: RunningTrial, outcome: Callable[[], Any]) -> None:
        seat = self._seats.pop(trial, None)
        if seat is not None:
            seat.outcome = outcome
            seat.over.set()
