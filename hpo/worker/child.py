"""A runner as its worker sees it: a spawned process, the pipe to it, and what it is at."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import psutil

from hpo.runner.channel import ChannelError, Mailbox
from hpo.runner.messages import Abandon, Boot, Broken, Drain, Joined, Quit, Ready, Step
from hpo.runner.processes import signal_name
from hpo.worker.broker import Broker
from hpo.worker.code import CodeGuard
from hpo.worker.desk import Desk, read
from hpo.worker.devices import Share
from hpo.worker.events import Ended, Reported, Started
from hpo.worker.identity import process_started
from hpo.worker.leftovers import end_leftovers
from hpo.worker.nursery import Adopted, Nursery, start_runner
from hpo.worker.turns import Assignment
from storage.database.records import NothingToClaim

KILL_AFTER = 5.0  # seconds in which a runner notices that its lease is lost


class Phase(Enum):
    """What a runner is at."""

    STARTING = auto()  # its process imports the objective
    IDLE = auto()  # it waits for work
    ASKED = auto()  # a ticket is being claimed for it, and its trial begun
    WORKING = auto()  # it runs an attempt
    ENDED = auto()  # the attempt is over; it will say that it is ready
    LEAVING = auto()  # it was told to leave, or has said that it cannot work


@dataclass(eq=False)
class Child:
    """One runner process, or a lane of it: a state machine that hears what runner and broker say of it.

    The first lane of a process that has several speaks for the process; each has a phase of its own.
    """

    index: int
    share: Share
    assignment: Assignment
    process: subprocess.Popen[bytes] | Adopted
    process_key: tuple[int, float] | None  # its pid and when it started; None: it is not ours to end
    mark: str  # in its environment, and so in that of whatever it starts
    desk: Desk
    pidfd: int | None
    phase: Phase = Phase.STARTING
    alone: bool = False  # asked for a trial that needs the device to itself
    current: Started | None = None  # while it is WORKING
    current_since: float = 0.0  # monotonic
    waits: bool = False  # for trials that can be trained with it: no time-out runs yet
    last: Reported | None = None
    last_progress: float = 0.0  # monotonic
    why_killed: str | None = None  # set when the worker itself ends it
    is_over_limits: bool = False  # its trial used too much, which is not this machine's fault
    why_broken: str | None = None  # why it, or who chooses for it, cannot work
    abandoned: float | None = None  # when it was told that its lease is lost; monotonic
    is_dismissed: bool = False
    takes: int = 1  # lanes of its process that get a ticket
    takes_alone: bool = True  # where it takes several: next come trials that need the runner to themselves
    lanes: list[Child] = field(default_factory=list)  # of its process, itself among them
    _waits_for: int = selectors.EVENT_READ

    def __post_init__(self) -> None:
        self.lanes = self.lanes or [self]

    @classmethod
    def spawn(
        cls,
        index: int,
        share: Share,
        assignment: Assignment,
        worker_id: str,
        boot: Boot,
        seat: Callable[[Mailbox], Desk],
        nursery: Nursery | None = None,
    ) -> Child:
        """A new runner for a study: the one that its nursery has, or it is started by itself."""
        made = None if nursery is None else nursery.take()
        made = made or start_runner(share, assignment.spec.threads, worker_id)
        desk, process = seat(Mailbox(made.pipe)), made.process
        desk.tell(boot)
        pidfd = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(process.pid)
        key = (process.pid, process_started(process.pid) or 0.0)
        return cls(index, share, assignment, process, key, made.mark, desk, pidfd)

    def split(self, count: int) -> None:
        """Give its process so many lanes."""
        self.takes = count
        for slot in range(1, count):
            self.lanes.append(replace(self, desk=replace(self.desk, slot=slot)))

    def hear(self, message: Ready | Joined | Broken | Started | Reported | Ended | NothingToClaim) -> None:
        """Something happened to it: where that leads."""
        now = time.monotonic()
        match message, self.phase:
            case _, Phase.LEAVING:
                if isinstance(message, Ended):
                    self.current = None
            case Ready(), Phase.STARTING | Phase.ENDED:
                self.phase = Phase.IDLE
            case Broken(), _:
                self.phase = Phase.LEAVING
            case Started(), Phase.ASKED:
                self.phase, self.current, self.last = Phase.WORKING, message, None
                self.current_since = self.last_progress = now
                self.waits = self.lanes[0].takes > 1
            case Joined(), Phase.WORKING:
                self.current_since = self.last_progress = now
                self.waits = False
            case Reported(), Phase.WORKING:
                self.last, self.last_progress = message, now
            case Ended(), Phase.WORKING | Phase.ASKED:
                self.phase, self.current, self.abandoned = Phase.ENDED, None, None
            case NothingToClaim(), Phase.ASKED:
                self.phase = Phase.IDLE

    def receive(self) -> list[bytes]:
        """What it has said since; a runner that breaks its pipe is ended."""
        try:
            return self.desk.mailbox.receive()
        except EOFError:  # it is dead, or about to be
            return []
        except ChannelError as error:
            self._end_for(error)
            return []

    def understand(
        self, content: bytes, broker: Broker, *, allow_mismatch: bool
    ) -> tuple[Child, Ready | Joined | Broken | Reported] | None:
        """What a lane says of itself, and its progress; what is of its attempt is handed to the broker."""
        try:
            slot, message = read(content)
            if slot >= len(self.lanes):
                raise ChannelError(f"it has no lane {slot}")
        except ChannelError as error:
            self._end_for(error)
            return None
        lane = self.lanes[slot]
        if isinstance(message, Ready | Joined | Broken):
            if isinstance(message, Ready) and message.lanes is not None:
                self._take_at_most(max(1, message.lanes), broker)
            if isinstance(message, Ready) and message.code is not None:
                guard = CodeGuard(self.assignment.row, message.code, allow=allow_mismatch)
                for one in self.lanes:
                    one.desk.guard = guard
            return lane, message
        broker.hear(lane.desk, message)
        progress = lane._progress(message) if isinstance(message, Step) else None
        return None if progress is None else (lane, progress)

    def _take_at_most(self, count: int, broker: Broker) -> None:
        """It takes fewer trials at once; lanes that it never began are none, and nobody looks at them."""
        self.takes = min(self.takes, count)
        if self.lanes[0].phase is Phase.STARTING:
            for lane in self.lanes[self.takes :]:
                broker.unseat(lane.desk)
            del self.lanes[self.takes :]

    def _progress(self, message: Step) -> Reported | None:
        value = message.value
        if value is None and len(self.desk.study.row.spec["directions"]) > 1:
            value = next(iter(message.metrics.values()), 0.0)
        if value is None or self.current is None:
            return None
        return Reported(self.current.lease, message.step, value)

    def _end_for(self, error: ChannelError) -> None:
        self.end(f"its runner broke its pipe: {error}", is_over_limits=False)

    def ask(self, *, alone: bool) -> None:
        """A ticket is being claimed for it; only when it is free."""
        self.phase, self.alone = Phase.ASKED, alone

    @property
    def busy(self) -> bool:
        """Whether it runs, or is about to get, a ticket."""
        return self.phase in (Phase.ASKED, Phase.WORKING)

    @property
    def free(self) -> bool:
        """Whether it waits for work."""
        return self.phase is Phase.IDLE

    @property
    def free_lanes(self) -> list[Child]:
        """Lanes of its process that wait for work."""
        return [lane for lane in self.lanes[: self.takes] if lane.free]

    @property
    def rests(self) -> bool:
        """Whether no lane of its process is at anything."""
        return not any(lane.busy or lane.phase is Phase.ENDED for lane in self.lanes)

    @property
    def at_work(self) -> int:
        """Lanes of its process that run an attempt."""
        return sum(lane.current is not None for lane in self.lanes)

    @property
    def never_worked(self) -> bool:
        """Whether it ended by itself where a runner should have gone on to a trial."""
        if self.phase is Phase.LEAVING:
            return False
        return self.phase is Phase.STARTING or (self.process.returncode != 0 and self.how_it_died()[1])

    @property
    def alive(self) -> bool:
        """Whether its process lives."""
        return self.process.poll() is None

    def at(self) -> dict[str, Any]:
        """What it is at, for `hpo workers` and the dashboard."""
        shown = max(self.lanes, key=lambda lane: (lane.current is not None, lane.last_progress))
        current, last = shown.current, shown.last
        several = {"lanes": self.at_work} if self.at_work > 1 else {}
        return {
            **several,
            "device": self.share.shown,
            "trial": None if current is None else current.trial,
            "attempt": None if current is None else current.attempt,
            "step": None if last is None else last.step,
            "value": None if last is None else last.value,
        }

    def drain(self, *, now: bool) -> None:
        """Have it stop at the end of the epoch, or at the next chance, and give its ticket back."""
        self.desk.tell(Drain(now))

    def dismiss(self) -> None:
        """Have it leave; only when it rests."""
        for lane in self.lanes:
            lane.phase = Phase.LEAVING
        if not self.is_dismissed:
            self.is_dismissed = True
            self.desk.tell(Quit())

    def abandon(self) -> None:
        """Tell it that its lease is lost; it has until KILL_AFTER to notice."""
        if self.desk.held is not None:
            self.desk.tell(Abandon(self.desk.held.serial))
        self.abandoned = time.monotonic()

    def watch(self, waiting: selectors.BaseSelector) -> None:
        """Wait for it, too: for what it says, and for its end."""
        waiting.register(self.desk.mailbox, selectors.EVENT_READ, self)
        if self.pidfd is not None:
            waiting.register(self.pidfd, selectors.EVENT_READ, self)

    def watch_mailbox(self, waiting: selectors.BaseSelector) -> None:
        """Wait for room in its mailbox where something waits to be sent."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.desk.mailbox.is_full else 0)
        if wanted != self._waits_for:
            waiting.modify(self.desk.mailbox, wanted, self)
            self._waits_for = wanted

    def forget(self, waiting: selectors.BaseSelector) -> None:
        """Wait for it no more."""
        waiting.unregister(self.desk.mailbox)
        if self.pidfd is not None:
            waiting.unregister(self.pidfd)

    def kill(self) -> None:
        """SIGKILL to the runner and all it has started, whatever group that is in; it outlives SIGTERM."""
        started: list[psutil.Process] = []
        if self.alive:  # they are below it then, for it is their reaper
            with contextlib.suppress(psutil.Error):
                started = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for one in started:
            with contextlib.suppress(psutil.Error):
                one.kill()

    def end(self, why: str, *, is_over_limits: bool = True) -> None:
        """End it because its trial uses more than its study allows, wherever that is tried.

        Of several trials none is known to be it: each is tried alone.
        """
        if self.at_work <= 1:
            for lane in self.lanes:
                lane.why_killed, lane.is_over_limits = why, is_over_limits
        self.kill()

    def end_if_hung(self) -> None:
        """End a trial that takes longer, or has not reported for longer, than its study allows."""
        if self.current is None:
            return
        if self.abandoned is not None:
            if time.monotonic() - self.abandoned > KILL_AFTER:
                self.kill()
            return
        why = self.overdue
        if not self._is_quiet or self.at_work == 1:  # else any of them may hang
            self.why_killed = why or self.why_killed
        if why is not None or self.why_killed is not None:
            self.kill()

    @property
    def overdue(self) -> str | None:
        """Which of its study's time-outs its trial has passed; None: none."""
        total, quiet = self.assignment.spec.trial_timeout, self.assignment.spec.report_timeout
        if self.waits:
            return None
        worked = 0.0 if self.current is None else self.current.worked
        if total is not None and worked + time.monotonic() - self.current_since > total:
            return f"it took longer than trial_timeout ({total:g} s)"
        if self._is_quiet:
            return f"no report for longer than report_timeout ({quiet:g} s)"
        return None

    @property
    def _is_quiet(self) -> bool:
        """Whether no lane of its process has reported for too long."""
        quiet = self.assignment.spec.report_timeout
        if quiet is None:
            return False
        return time.monotonic() - max(lane.last_progress for lane in self.lanes) > quiet

    def close(self) -> None:
        """Forget a runner that has ended."""
        self.process.wait()
        self.kill()  # data loaders it left behind share its process group
        if self.process.returncode != 0:  # what it did not end itself, wherever it put it
            end_leftovers(self.mark)
        self.desk.mailbox.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def how_it_died(self) -> tuple[str, bool]:
        """A sentence, and whether the trial is to blame (a SIGKILL from outside is nobody's fault)."""
        if self.why_killed is not None:
            return self.why_killed, True
        status = self.process.returncode
        if status is not None and status < 0:
            innocent = -status in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
            if -status == signal.SIGKILL:
                return "its runner was killed by SIGKILL (by hand, or out of memory)", False
            return f"its runner died by {signal_name(-status)}", not innocent
        return f"its runner's process exited with status {status} during the trial", True
