"""The worker: keeps its runners at work, ends what hangs, drains when asked, survives what they do."""

from __future__ import annotations

import logging
import math
import selectors
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hpo.errors import ExitCode
from hpo.runner.channel import Mailbox
from hpo.runner.messages import GAVE_UP, Boot, Broken, Ready
from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.worker import identity
from hpo.worker.broker import Broker
from hpo.worker.cards import Access, Cards
from hpo.worker.child import Child, Phase
from hpo.worker.desk import Desk
from hpo.worker.devices import Share, allowed_cores, cores_of
from hpo.worker.events import Ended, Leaving, Started
from hpo.worker.guard import guarded
from hpo.worker.imports import Imports
from hpo.worker.lease_keeper import Beat, LeaseKeeper
from hpo.worker.leftovers import end_orphans
from hpo.worker.limits import Limits
from hpo.worker.load import machine_load
from hpo.worker.notifier import Notifier
from hpo.worker.nursery import Nursery
from hpo.worker.registration import sign_off, sign_on
from hpo.worker.repeats import ServedRepeats
from hpo.worker.signals import Signals
from hpo.worker.study import ServedStudy
from hpo.worker.turns import POLL, Assignment, EveryStudy, Turns
from hpo.worker.usage import end_who_uses_too_much
from storage.database.changes import Changes
from storage.database.engine import Database, Patience
from storage.database.records import AttemptState, Need, NothingToClaim, WorkerState
from storage.queue.tickets import BESIDE, Takes

log = logging.getLogger(__name__)

_STOOD = 1.0  # seconds by which a worker looks too late where it was stopped, and not only busy


@dataclass(frozen=True)
class Outcome:
    """How a worker ended."""

    exit_code: int
    why: str
    told: bool = False  # by a signal to leave: it does nothing further


@dataclass(eq=False)
class Worker:
    """One `hpo worker`, or the worker inside `hpo run`."""

    database: Database
    settings: Settings
    study: Assignment | None  # the study to serve; None: every running one in turn
    code: str  # directory that the objective is relative to
    shares: Sequence[Share]  # one device share for each runner
    limits: Limits = field(default_factory=Limits)  # what makes it leave before the study ends
    name: str | None = None  # shown to people; default `host:pid`
    allow_mismatch: bool = False  # run although the objective or the packages differ from the study's
    allow_commands: bool = False  # run studies whose objective is a command
    on_event: Callable[[int, Any], None] = lambda _runner, _message: None  # told every message of a runner
    # How its one runner comes to its place, where that is a process that runs already; the worker leaves with
    # it. None: runners are started.
    seat: Callable[..., Child] | None = None
    nursery: Nursery | None = None  # begun beforehand, for this worker alone, which closes it

    _guard: int | None = None
    _draining: str | None = None
    _outcome: Outcome | None = None
    _last_beat: Beat | None = None
    _look_again: float = 0.0  # monotonic: when every runner is looked at, whether it speaks or not
    _children: dict[int, Child] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)  # what runners have told of their lanes
    _skips: dict[str, str] = field(default_factory=dict)  # studies this worker leaves alone, and why
    _served: dict[str, ServedStudy] = field(default_factory=dict)  # by uid

    def __post_init__(self) -> None:
        worker_id = uuid.uuid4().hex if self.nursery is None else self.nursery.worker_id
        self.identity = identity.identify(worker_id, self.name)
        self._only = None if self.study is None else self.study.row.name
        self._changes = Changes(self.database)
        self._turns: Turns = (
            Turns(self.study, changed=self._changes.seen)
            if self.study is not None
            else EveryStudy(self.database, worker_id, changed=self._changes.seen)
        )
        self._cards = Cards(self.shares)
        self._left = math.inf if self.limits.trials is None else self.limits.trials
        self._waiting = selectors.DefaultSelector()
        self._imports = Imports(len(self.shares))

    def run(self) -> Outcome:
        """Work until the study has ended, the count is reached, or a signal says to leave."""
        sign_on(self.database, self.identity, self._only, self.shares, lease=self.settings.lease)
        self.database.patience = Patience(endless=True)
        guard = guarded(self.identity.id) if self.seat is None else nullcontext()
        spec = None if self.study is None else self.study.spec
        nursery = self.nursery or Nursery.of(self.shares, spec, self.code, self.identity.id)
        with Signals() as signals, guard as self._guard, nursery as self.nursery:
            self._waiting.register(signals.read_fd, selectors.EVENT_READ)
            if self.nursery is not None:
                self.nursery.watch(self._waiting)
            self._broker = Broker(self.database, self.identity.id, self.settings.lease, signals.wake)
            how = self.settings.lease, self.settings.heartbeat, self._status, signals.wake_fd
            keeper = LeaseKeeper(self.database, self.identity.id, self._only, *how)
            keeper.start()
            commands = self.code if self.allow_commands else None
            notifier = Notifier(self.database, self.settings.heartbeat, commands)
            notifier.start()
            try:
                while self._children or self._draining is None:
                    self._give_work()
                    looks = self._wait(signals)
                    self._heed_signals(signals)
                    self._heed_beat(keeper)
                    self._heed_limits()
                    if looks:
                        for child in self._lanes():
                            child.end_if_hung()
                        end_who_uses_too_much(self._children.values())
                notifier.finish(self._only, self.settings.news, signals.has_come)
            finally:
                notifier.stop()
                self._leave(keeper)
        return self._outcome or Outcome(ExitCode.DONE, self._draining or "the study has ended")

    # Runners

    def _spawn(self, runner: int, assignment: Assignment) -> None:
        share = self.shares[runner]
        if assignment.uid not in self._served:
            serve = ServedStudy if assignment.row.repeats_of is None else ServedRepeats
            study = assignment.row, assignment.spec
            self._served[assignment.uid] = serve(self.database, *study, self.code, self.identity.id)
        served = self._served[assignment.uid]
        told = served.as_served()
        if self.seat is not None:  # a person's own process trains one after another
            told = replace(told, lanes=1, ranks=1)
        cores = None  # CPU runners keep out of each other's way; those of a card go where there is room
        if share.device == "cpu":
            threads = assignment.spec.threads * assignment.spec.gpus_per_trial
            cores = cores_of(runner, len(self.shares), threads, allowed_cores())
        boot = Boot(told, share.device, self.code, cores, self._cards.is_shared(runner))

        def desk(mailbox: Mailbox) -> Desk:
            return Desk(runner, mailbox, served, share.shown, runners=len(self.shares))

        spawn = self.seat or partial(Child.spawn, nursery=self.nursery)
        child = spawn(runner, share, assignment, self.identity.id, boot, desk)
        self._children[runner] = child
        child.split(told.lanes)
        child.watch(self._waiting)
        for lane in child.lanes:
            self._broker.seat(lane.desk)
        keys = (child.process_key for child in self._children.values())
        self._broker.record_runners([key for key in keys if key is not None])

    def _wait(self, signals: Signals) -> bool:
        """Sleep until a runner speaks or dies, there is news, a beat or a signal, or it is time to look at
        every runner, as it is twice a second; whether it is.
        """
        for child in self._children.values():
            child.watch_mailbox(self._waiting)
        ready = {key.data for key, _ in self._waiting.select(POLL)}
        signals.clear()
        late = time.monotonic() - self._look_again
        if late > _STOOD:  # all stood still, as in a suspended container: that is no trial's time
            for lane in self._lanes():
                lane.current_since += late
                lane.last_progress += late
        for child in list(self._children.values()):
            if child in ready or late >= 0:
                child.desk.mailbox.flush()
                dead = not child.alive
                self._hear(child)
                if dead:
                    self._bury(child)
        if late >= 0:
            self._look_again = time.monotonic() + POLL
        self._heed_broker()
        return late >= 0

    def _heed_broker(self) -> None:
        """What came of what the broker was asked, or was told."""
        for desk, event in self._broker.heard():
            child = self._children.get(desk.runner)
            lane = child.lanes[desk.slot] if child and desk.slot < len(child.lanes) else None
            if lane is not None and lane.desk is desk:
                self._on_message(lane, event)
            else:
                self.on_event(desk.runner, event)

    def _hear(self, child: Child) -> None:
        messages = child.receive()
        self._heed_broker()  # a runner says nothing of what the broker has not told before
        for content in messages:
            said = child.understand(content, self._broker, allow_mismatch=self.allow_mismatch)
            if said is not None:
                self._on_message(*said)

    def _on_message(self, child: Child, message: Any) -> None:
        starting = child.phase is Phase.STARTING
        child.hear(message)
        match message:
            case Ready():
                if starting:
                    self._imports.done(child.assignment.uid)
                if message.note is not None and message.note not in self._noted:
                    self._noted.add(message.note)
                    log.warning("%s: %s", child.assignment.study, message.note)
            case Started():
                self._imports.worked(child.assignment.uid)
                self._turns.started(child.index)
                self._left += message.is_promoted  # it was counted when it began
            case Ended():
                self._turns.found_work()
                if message.set_aside:
                    self._want(child, message.set_aside)
                    self._left += 1
            case NothingToClaim():
                self._on_no_ticket(child, message)
            case Broken():
                child.why_broken = message.why
                if starting and self._imports.failed(child.assignment.uid, child.index):
                    log.warning("runner %d cannot start, others go on: %s", child.index, message.why)
                else:
                    self._give_up_on(child.assignment, message.why, message.exit_code)
                if child.rests:
                    child.lanes[0].dismiss()
        self.on_event(child.index, message)

    def _on_no_ticket(self, child: Child, message: NothingToClaim) -> None:
        runner = child.lanes[0]
        self._left += 1
        if runner.takes > 1 and runner.takes_alone and not message.ended and not message.fault:
            runner.takes_alone = False  # now for those that can be trained beside others
            return
        self._turns.nothing(child.index)
        if child.alone:
            self._cards.none_waits(child.index, child.assignment)
        elif message.alone:
            self._want(child, message.alone)
        if message.fault and message.ended:
            self._quarantined(message.why)
        elif message.fault:
            self._give_up_on(child.assignment, message.why, ExitCode.FAILED)
        elif message.ended and self._only is not None:
            self._drain(message.why)

    def _want(self, child: Child, need: Need) -> None:
        """A trial waits that needs a card, or a runner, to itself."""
        if need is Need.CARD and (child.lanes[0].takes == 1 or self._cards.is_shared(child.index)):
            self._cards.want(child.index, child.assignment)
        else:
            child.lanes[0].takes_alone = True

    def _bury(self, child: Child) -> None:
        """A runner has ended: free its ticket at once."""
        self._part_with(child)
        if child.process_key is not None and self._guard is not None:
            others = {self._guard, *(other.process.pid for other in self._children.values())}
            end_orphans(child.process_key, self.identity.id, others, living=child.process.returncode != 0)
        uid = child.assignment.uid
        if all(other.assignment.uid != uid for other in self._children.values()):
            served = self._served.pop(uid, None)  # with its history; who comes back to it reads it anew
            if served is not None:
                served.close()
        for lane in child.lanes:
            self._free(lane)
        if not child.at_work and child.never_worked and self._imports.died(uid):
            status = child.process.returncode
            why = f"runners end before they start a trial (exit status {status}); they say why above"
            self._give_up_on(child.assignment, why, ExitCode.FAILED)

    def _part_with(self, child: Child) -> None:
        child.forget(self._waiting)
        child.close()
        del self._children[child.index]

    def _free(self, child: Child) -> None:
        """Give back what a lane of a runner that has ended holds."""
        why, blame = child.how_it_died()
        leave = partial(self._broker.leave, child.desk)
        is_guilty = child.why_killed is not None or child.abandoned is not None
        if child.process.returncode == GAVE_UP:
            leave(AttemptState.RELEASED, child.why_broken or "its runner could not use the database")
        elif self.seat is not None:
            # Interrupted, it has left its trial; without that, its process has died.
            died = self._draining is None
            left = AttemptState.LOST if died else AttemptState.RELEASED
            leave(left, why if died else "interrupted")
            self._drain(why)
        elif child.current is not None and child.at_work > 1 and not is_guilty:
            if any(lane.why_killed is not None or lane.abandoned is not None for lane in child.lanes):
                leave(AttemptState.RELEASED, "its runner was ended because of another of its trials")
            else:
                shared = f"{why}, with {child.at_work} trials at once: each goes on alone"
                leave(AttemptState.LOST, shared, need=Need.RUNNER)
        elif child.current is not None:
            state = AttemptState.FAILED if blame else AttemptState.LOST
            leave(state, why, blames=not child.is_over_limits)
        elif child.phase is Phase.LEAVING:
            leave(AttemptState.RELEASED, child.why_broken or "its runner was not needed any more")
        else:
            leave(AttemptState.LOST, why)

    def _give_work(self) -> None:
        """Every free runner gets an order; a place without one gets a runner."""
        if self._draining is not None:
            for child in self._children.values():
                if child.rests and child.phase is not Phase.STARTING:
                    child.dismiss()
            return
        if self._broker.unsettled:  # a dead runner's lease must not pass to its successor unsettled
            return
        for runner in range(len(self.shares)):
            there = self._children.get(runner)
            if there is None or there.free_lanes:
                self._place(runner, there)

    def _place(self, runner: int, child: Child | None) -> None:
        """Bring a place on a device to its next ticket: an order, a new process, or the old one's leave."""
        if self._left <= 0:
            if not any(lane.busy for lane in self._lanes()):
                self._drain("the count of trials is reached")
            return
        assignment: Assignment | None
        access = self._cards.access(runner, self._children)
        if access in (Access.WAIT, Access.LEAVE):
            if access is Access.LEAVE and child is not None and child.rests:
                child.dismiss()  # with the memory it holds
            return
        if access is Access.ALONE:
            assignment = self._cards.wanted(runner)
            self._turns.take(runner, assignment)
        else:
            assignment = self._turns.next(runner)
        if assignment is not None and self._imports.has_given_up(assignment.uid, runner):
            if self._only is None:  # other studies may have work for it
                self._turns.nothing(runner)
            return
        if assignment is None:
            return
        if assignment.spec.command is not None and not self.allow_commands:
            self._give_up_on(assignment, _command_refused(assignment.spec), ExitCode.BAD_INPUT)
        elif why := self.shares[runner].too_few(assignment.spec.gpus_per_trial):
            self._give_up_on(assignment, why, ExitCode.BAD_INPUT)
        elif child is None:
            self._turns.found_work()
            alone = self._imports.is_first(assignment.uid)
            waits = alone and any(c.assignment.uid == assignment.uid for c in self._children.values())
            if not waits and not (self.nursery is not None and self.nursery.is_expecting()):
                self._spawn(runner, assignment)
        elif child.assignment.uid != assignment.uid:
            self._turns.found_work()
            if child.rests:
                child.dismiss()  # threads and objective are those of one study
        else:
            self._order(child, alone=access is Access.ALONE)

    def _order(self, child: Child, *, alone: bool) -> None:
        """Order a ticket for each free lane; for the first one only, where that takes one to itself."""
        shared, several = self._cards.is_shared(child.index), child.takes > 1
        takes: Takes
        if alone:
            takes = (Need.CARD,) if shared else None
        elif not several:
            takes = (Need.NOTHING, Need.RUNNER) if shared else None
        elif child.takes_alone:
            takes = (Need.RUNNER,) if shared else (Need.CARD, Need.RUNNER)
        else:
            takes = BESIDE
        free = child.free_lanes
        if alone or (several and child.takes_alone):
            free = [child] if child.rests and child.free else []
        free = free[: int(min(self._left, len(free)))]
        self._left -= len(free)
        for lane in free:
            lane.ask(alone=alone)
        if free:
            self._broker.order([lane.desk for lane in free], takes)

    def _lanes(self) -> Iterator[Child]:
        """Every lane of every runner."""
        return (lane for child in self._children.values() for lane in child.lanes)

    # What makes runners stop

    def _give_up_on(self, assignment: Assignment, why: str, exit_code: int) -> None:
        """The study cannot be worked at here; a worker of every study says so once and serves the rest."""
        if not self._turns.skip(assignment):
            self._drain(why, Outcome(exit_code, why))
            return
        self._cards.forget(assignment)
        if assignment.uid not in self._skips:
            self._skips[assignment.uid] = f"{assignment.study}: {why.splitlines()[0]}"
            log.warning("this worker leaves %s to others: %s", assignment.study, why)
            self._broker.note("leaves to others: " + "; ".join(self._skips.values()))

    def _quarantined(self, why: str) -> None:
        name = self._only
        hint = f"`hpo trial {name}/0` shows a traceback" if name else "`hpo ls` lists the studies"
        self._drain(why, Outcome(ExitCode.FAILED, f"{why}\n{hint}. Mend it and start again"))

    def _drain(self, why: str, outcome: Outcome | None = None) -> None:
        """Claim nothing more and leave when nothing runs; the first reason stands."""
        self._broker.drain()
        self._draining = self._draining or why
        self._outcome = self._outcome or outcome

    def _heed_signals(self, signals: Signals) -> None:
        if signals.interrupts >= 2 or (signals.interrupts and signals.terminated is not None):
            self._abort("aborted", ExitCode.INTERRUPTED)
        elif signals.interrupts == 1 and signals.fresh():
            why = "interrupted; the same command carries on where this left off"
            self._outcome = Outcome(ExitCode.INTERRUPTED, why)
            self._drain_running(now=False)
        if signals.terminated is not None:
            since = time.monotonic() - signals.terminated
            if signals.fresh():
                why = "told to leave; tickets were given back"
                self._outcome = self._outcome or Outcome(ExitCode.DONE, why, told=True)
                self._drain_running(now=False)
            if since > 0.6 * self.settings.grace and not signals.is_deadline_seen:
                signals.is_deadline_seen = True
                self._drain_running(now=True)
            if since > self.settings.grace:
                self._abort("the grace period is over", ExitCode.DONE)

    def _heed_limits(self) -> None:
        if self._draining is not None:
            return
        if self.limits.until is not None and time.time() >= self.limits.until:
            self._drain_running("the time given with --until has come; running trials were given back")
        elif (
            self.limits.idle is not None
            and self._turns.idle >= self.limits.idle
            and all(child.free and child.rests for child in self._children.values())
        ):
            self._drain("there was nothing to claim for as long as --idle-timeout says")

    def _drain_running(self, why: str = "draining", *, now: bool = False) -> None:
        self._drain(why)
        self.on_event(-1, Leaving(sum(child.at_work for child in self._children.values())))
        for child in self._lanes():
            child.drain(now=now)

    def _abort(self, why: str, exit_code: int) -> None:
        """End every runner at once and give the tickets back, as far as the database can be told."""
        self._outcome = Outcome(exit_code, why, told=True)
        self._drain(why)
        for child in list(self._children.values()):
            child.kill()
            self._part_with(child)
            for lane in child.lanes:
                self._broker.leave(lane.desk, AttemptState.RELEASED, why)

    def _heed_beat(self, keeper: LeaseKeeper) -> None:
        beat = keeper.latest
        if beat is None or beat is self._last_beat:
            return
        self._last_beat = beat
        if beat.work:
            self._turns.may_have_work()
        for child in self._lanes():
            current, told = child.current, child.abandoned is not None
            if current is None or told or current.lease in beat.held or child.current_since >= beat.asked:
                continue
            child.abandon()
        if beat.over is not None:
            self._drain(beat.over)
        if beat.worker is WorkerState.QUARANTINED:
            self._quarantined("this worker is quarantined; `hpo workers` shows why")

    # The worker's own record

    def _status(self) -> dict[str, Any]:
        """What each runner is at, for `hpo workers` and the dashboard."""
        runners = [child.at() for child in list(self._children.values())]
        busy = 100 * sum(one["trial"] is not None for one in runners) / max(1, len(runners))
        at_work = {"name": "runners", "value": busy, "max": 100.0, "unit": "%"}
        return {"runners": runners, "draining": self._draining, "load": [at_work, *machine_load()]}

    def _leave(self, keeper: LeaseKeeper) -> None:
        """Write what is left to write, and sign off. Leases are renewed until that is done."""
        for child in list(self._children.values()):  # only after an error of our own
            child.kill()
            child.close()
        # Told to leave: a database that is away must not cost the rest of the grace period.
        hurry = self._outcome is not None
        for served in self._served.values():
            served.close()
        self._broker.close(hurry=hurry)
        keeper.stop()
        self._heed_broker()
        if self._broker.unsettled:
            log.warning("%d trials are freed when their leases expire", self._broker.unsettled)
        sign_off(self.database, self.identity, hurry=hurry)
        self._changes.close()


def _command_refused(spec: StudySpec) -> str:
    """A study in a shared database may be anybody's, and must not make this machine run a program unasked."""
    return (
        f"the objective of {spec.study} is a command: {spec.shown_objective}\n"
        "This worker runs none unless it is started with --allow-commands"
    )
