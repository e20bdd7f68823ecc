"""The broker: the part of a worker that speaks to the database for its runners.

The worker's loop hears the runners and hands on what they say; it never waits for the database. One thread, the
*clerk*, writes: what came during a commit goes into the next one. Another, the *asker*, has samplers choose
points and reads what takes long, so that no report waits for a suggestion. A third removes files.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hpo.errors import CodeDiffersError, ExitCode, HpoError
from hpo.runner.messages import (
    Answer,
    Away,
    Beginning,
    Broken,
    Ended,
    Finish,
    NoTicket,
    Numbered,
    Refused,
    Started,
    Step,
    Suggest,
    TakeOver,
    Task,
    ToRunner,
)
from hpo.search.draws import training_seed
from hpo.worker import writes
from hpo.worker.desk import Desk
from hpo.worker.housekeeping import Housekeeper
from hpo.worker.study import Held, ServedStudy
from hpo.worker.writes import Pending, Then
from storage.database.engine import Database, Patience, Transaction
from storage.database.errors import (
    DatabaseFaultError,
    DatabaseUnreachableError,
    LeaseLostError,
    StorageError,
)
from storage.database.records import AttemptState, Claim, NothingToClaim
from storage.files import checkpoints
from storage.queue import attempts, leases, outcomes, tickets, workers
from storage.queue.attempts import Report, Write, end_if_live
from storage.queue.optuna_rows import Owner, Trial

log = logging.getLogger(__name__)

LEAVE_WITHIN = 5.0  # seconds that an orderly end waits for a database that is away


@dataclass(frozen=True)
class _Order:
    """Claim a ticket for a runner; `alone` as in `tickets.claim_next`."""

    desk: Desk
    alone: bool | None


@dataclass(frozen=True)
class _Said:
    """A runner said something of the attempt it holds."""

    desk: Desk
    message: Numbered


@dataclass(frozen=True)
class _Left:
    """A runner is gone. What it still holds ends so: `failed`, `lost` or `released`."""

    desk: Desk
    state: AttemptState
    why: str


@dataclass(frozen=True)
class _Own:
    """Something of the worker's own."""

    verb: Callable[[Transaction], Any]


_Item = _Order | _Said | Pending | _Left | _Own


class Broker:
    """Claims, suggestions, pruning and writes for the runners of one worker.

    Args:
        database: the shared database. While it is away the broker goes on trying, until it is closed.
        worker_id: the worker's.
        lease: seconds.
        wake: called when there is news in `events`.
    """

    def __init__(self, database: Database, worker_id: str, lease: float, wake: Callable[[], None]) -> None:
        self.events: deque[tuple[Desk, Any]] = deque()  # (desk, Started | Ended | NoTicket | Broken)
        self.is_draining = False  # nothing more is claimed
        self._database = database
        self._worker_id = worker_id
        self._lease = lease
        self._wake = wake
        self._inbox: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._questions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._desks: set[Desk] = set()
        self._unsettled: set[Desk] = set()  # of runners that are gone, whose attempts are not ended yet
        self._lock = threading.Lock()
        self._housekeeper = Housekeeper(database)
        self._threads = [
            threading.Thread(target=self._keep_writing, name="clerk", daemon=True),
            threading.Thread(target=self._keep_asking, name="asker", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # What the worker's loop says

    def seat(self, desk: Desk) -> None:
        """A runner has been started."""
        with self._lock:
            self._desks = self._desks | {desk}

    def order(self, desk: Desk, alone: bool | None) -> None:
        """Claim a ticket for an idle runner: an event says what came of it."""
        self._inbox.put(_Order(desk, alone))

    def hear(self, desk: Desk, message: Numbered) -> None:
        """A runner said something of its attempt."""
        self._inbox.put(_Said(desk, message))

    def leave(self, desk: Desk, state: AttemptState, why: str) -> None:
        """A runner is gone, and everything it said was heard: what it holds ends so."""
        with self._lock:
            self._desks = self._desks - {desk}
            self._unsettled = self._unsettled | {desk}
        self._inbox.put(_Left(desk, state, why))

    @property
    def unsettled(self) -> int:
        """Runners whose end is not written yet: none of their leases must pass to a successor."""
        return len(self._unsettled)

    def note(self, reason: str) -> None:
        """What people should know of this worker, for `hpo workers`."""
        self._inbox.put(_Own(partial(workers.note, worker_id=self._worker_id, reason=reason)))

    def record_runners(self, processes: Sequence[tuple[int, float]]) -> None:
        """The processes of the runners; none of them gets a trial before this is written."""
        self._inbox.put(
            _Own(partial(workers.record_runners, worker_id=self._worker_id, runners=list(processes)))
        )

    def close(self, *, hurry: bool) -> None:
        """Write what waits and end; `hurry`: a database that is away is not waited for."""
        self._questions.put(None)
        self._inbox.put(None)
        clerk, asker = self._threads
        clerk.join(1.0 if hurry else LEAVE_WITHIN)
        self._database.patience.give_up.set()
        clerk.join(LEAVE_WITHIN)
        asker.join(1.0)
        self._database.patience = Patience()
        self._housekeeper.close(hurry=hurry)

    # The clerk

    def _keep_writing(self) -> None:
        ending = False
        while not ending:
            items = [self._inbox.get()]
            while not self._inbox.empty():
                items.append(self._inbox.get())
            ending = None in items
            try:
                self._handle([item for item in items if item is not None])
            except DatabaseUnreachableError as error:
                log.warning("told to leave while the database is away: %s", error)
            except Exception as error:  # or the thread would end, and every runner wait for it for ever
                log.exception("the broker met an error of its own")
                self._fail(items, DatabaseFaultError(f"{type(error).__name__}: {error}"))

    def _handle(self, items: Sequence[_Item]) -> None:
        """Write what came, in the order it came; claims come after it."""
        rest = list(items)
        try:
            self._write([item for item in rest if not isinstance(item, _Order)])
            self._claim([item for item in rest if isinstance(item, _Order)])
        except DatabaseFaultError as error:
            self._fail(rest, error)

    def _write(self, items: Sequence[Any]) -> None:
        """One group commit, or several where something of the worker's own comes between."""
        group: list[Pending] = []
        for item in items:
            match item:
                case _Own():
                    self._commit(group)
                    group = []
                    self._patiently(item.verb)
                case _Left():
                    self._commit(group)
                    group = []
                    self._settle(item)
                case _:
                    pending = self._pending(item)
                    if pending is not None:
                        group.append(pending)
        self._commit(group)

    def _pending(self, item: _Said | Pending) -> Pending | None:
        """What is to be written of an item; None where it is refused."""
        desk, held = item.desk, item.desk.held
        if isinstance(item, Pending):
            return item if item.held is held and not held.is_over else None
        message = item.message
        if held is None or message.serial != held.serial:
            return None  # left over from a trial that is over
        if held.is_over or held.lost is not None:
            self._answer_stale(desk, held, message)
            return None
        if isinstance(message, Finish) and message.state is AttemptState.LOST:
            held.lost = message.error or "lost"
            self._answer_stale(desk, held, message)
            return None
        try:
            return writes.of_message(self._database, desk, held, message)
        except Exception as error:  # it, or what made it, is wrong
            self._answer(desk, message, error)
            return None

    def _answer_stale(self, desk: Desk, held: Held, message: Numbered) -> None:
        """An attempt that may write no more said something; its end is counted once."""
        why = held.lost or "this attempt has ended"
        if isinstance(message, Finish) and not held.is_over:
            self._patiently(partial(leases.note_rejected, lease=held.lease))
            self._over(desk, held, Ended(held.lease, AttemptState.LOST, error=why))
        self._answer(desk, message, LeaseLostError(why))

    def _commit(self, group: Sequence[Pending]) -> None:
        """Write a group, then say what came of it."""
        if not group:
            return
        entries = [entry for pending in group for entry in pending.entries]
        # Before a pruner is asked: with the values it will compare, where they are in the same group.
        look = {p.desk.study for p in group if p.desk.study.compares and isinstance(p.message, Step)}
        for study in look:
            if not study.has_looked:  # all there is to read; nobody's write waits for that
                self._trying(partial(_called_with, study.look), write=False)
        answers = iter(self._committed(entries, look) if entries else ())
        for pending in group:
            results = [next(answers) for _ in pending.entries]
            refused = next((one for one in results if isinstance(one, Exception)), None)
            if refused is not None:
                self._refuse(pending, refused)
                continue
            pending.learn()
            if pending.then is not None:
                self._follow(pending, results[-1] if results else None)

    def _follow(self, pending: Pending, result: Any) -> None:
        """What a write was for."""
        desk, held = pending.desk, pending.held
        match pending.then:
            case Then.ANSWER:
                self._reply(pending, result if result is not None else pending.answer)
            case Then.BEGIN:
                held.trial = result
                self._begin(desk, held, pending.params or {})
            case Then.GO_ON:
                self._ask(pending, self._go_on)
            case Then.RUN:
                self._run(pending)
            case Then.PRUNE:
                self._reply_with(pending, lambda: self._should_prune(pending))
            case Then.SUGGEST:
                self._ask(pending, self._suggest)
            case Then.READ:
                self._ask(pending, lambda asked: self._reply(asked, asked.read()))
            case Then.ACT:
                self._reply_with(pending, lambda: self._database.write_once(partial(_while_held, pending)))
            case Then.END:
                self._ended(pending)

    def _should_prune(self, pending: Pending) -> bool:
        desk, held = pending.desk, pending.held
        assert held.trial is not None
        return desk.study.should_prune(held.trial, partial(self._note, desk, held))

    def _reply_with(self, pending: Pending, find: Callable[[], Any]) -> None:
        """Answer with what `find` returns, or with the error it raises: a pruner's own, say, as in Optuna."""
        try:
            self._reply(pending, find())
        except (DatabaseUnreachableError, DatabaseFaultError):
            raise
        except LeaseLostError as error:
            self._refuse(pending, error)
        except Exception as error:
            self._reply(pending, error)

    def _refuse(self, pending: Pending, why: Exception) -> None:
        """The lease is lost, the database does not take a value, or a result may not count."""
        desk, held = pending.desk, pending.held
        if isinstance(why, StorageError | CodeDiffersError):
            told: Exception = why
        else:
            told = ValueError(f"the database does not take this: {writes.shortened(why)}")
        if isinstance(why, LeaseLostError):
            held.lost = str(why)
        if (
            pending.then in (Then.BEGIN, Then.RUN) and pending.message is None
        ):  # its runner knows nothing of it
            held.is_over = True
            lost = held.lost is not None
            self._say(desk, NoTicket(False, str(why)) if lost else Broken(str(told), ExitCode.FAILED))
            return
        if held.lost is not None:
            if pending.message is not None:
                self._answer_stale(desk, held, pending.message)
            return
        if pending.end is None:
            held.error = held.error or told
        if pending.message is not None:
            self._answer(desk, pending.message, told)

    def _ended(self, pending: Pending) -> None:
        """An attempt's end is written."""
        assert pending.end is not None
        desk, held = pending.desk, pending.held
        self._over(desk, held, pending.end)
        self._reply(pending, None)
        if held.trial is not None:
            self._housekeeper.let_go(desk.study, held.trial, AttemptState(pending.end.state), held.lease)

    def _over(self, desk: Desk, held: Held, ended: Ended) -> None:
        held.is_over = True
        if held.trial is not None:
            desk.study.known.drop(held.trial.id)
        self._say(desk, ended)

    # Claims

    def _claim(self, orders: Sequence[_Order]) -> None:
        """Claim for the runners that are idle, those of a study together."""
        wanted = [order for order in orders if not order.desk.is_left]
        if self.is_draining:
            for order in wanted:
                self._say(order.desk, NoTicket(False, "this worker leaves"))
            return
        for study in {id(order.desk.study): order.desk.study for order in wanted}.values():
            mine = [order for order in wanted if order.desk.study is study]
            for order, found in zip(mine, self._patiently(partial(self._claimed, mine)), strict=True):
                self._take(order, found)

    def _claimed(self, orders: Sequence[_Order], connection: Transaction) -> list[Any]:
        found: list[Any] = []
        for order in orders:
            desk = order.desk
            try:
                assert desk.guard is not None
                desk.guard.compare(connection)
            except CodeDiffersError as error:
                found.append(error)
                continue
            claim = tickets.claim_next(
                connection,
                self._database.clock,
                desk.study.row.id,
                self._worker_id,
                desk.runner,
                desk.device,
                self._lease,
                order.alone,
            )
            if isinstance(claim, Claim) and claim.trial_id is None and desk.study.is_drawn:
                params = desk.study.drawn(claim)
                found.append((claim, writes.start(connection, desk, claim, params, {}), params))
            else:
                found.append((claim, None, {}))
        return found

    def _take(self, order: _Order, found: Any) -> None:
        """What came of an order."""
        desk = order.desk
        if isinstance(found, CodeDiffersError):
            self._say(desk, Broken(str(found), found.exit_code))
            return
        claim, trial, params = found
        if isinstance(claim, NothingToClaim):
            if claim.ended and not claim.fault:
                self._housekeeper.sweep(desk.study)
            self._say(desk, NoTicket(claim.ended, claim.why, claim.fault, claim.alone))
            return
        held = desk.hold(claim)
        held.trial = trial
        if trial is not None:
            self._begin(desk, held, params)
        elif claim.trial_id is not None and claim.trial_number is not None:
            held.trial = Trial(claim.trial_id, claim.trial_number)
            desk.tell(self._task(desk, held, None))
        elif desk.study.needs_stored_trial:
            self._commit([writes.of_choice(desk, held, {}, {})])
        else:
            self._ask(Pending(desk, held), self._choose)

    def _begin(self, desk: Desk, held: Held, params: Mapping[str, Any]) -> None:
        """A new trial is in the database: let the runner run it."""
        assert held.trial is not None
        if desk.study.needs_stored_trial:
            self._ask(Pending(desk, held), self._go_on)
            return
        self._started(desk, held, None)
        desk.tell(self._task(desk, held, desk.study.begin(held.claim, held.trial, params)))

    def _run(self, pending: Pending) -> None:
        """A stored trial has all its parameters: let the runner run it."""
        desk, held, message = pending.desk, pending.held, pending.message
        if isinstance(message, TakeOver):
            self._started(desk, held, message.step)
            self._reply(pending, pending.answer)
        else:
            self._started(desk, held, None)
            desk.tell(self._task(desk, held, pending.answer))

    def _task(self, desk: Desk, held: Held, beginning: Beginning | None) -> Task:
        study, claim, trial = desk.study, held.claim, held.trial
        assert trial is not None
        return Task(
            serial=held.serial,
            folder=checkpoints.trial_key(study.row.uid, study.row.name, trial.number),
            attempt=claim.lease.attempt,
            seed=training_seed(study.row.seed, claim.number),
            alone=claim.alone,
            lost=bool(claim.lost),
            beginning=beginning,
        )

    def _started(self, desk: Desk, held: Held, resumed_from: int | None) -> None:
        assert held.trial is not None
        self._say(
            desk,
            Started(desk.study.row.name, held.lease, held.trial.number, held.lease.attempt, resumed_from),
        )

    # The asker

    def _keep_asking(self) -> None:
        while (question := self._questions.get()) is not None:
            question()

    def _ask(self, pending: Pending, answer: Callable[[Pending], None]) -> None:
        """Have the asker do what an attempt waits for. An error of a sampler's reaches who asked it."""

        def ask() -> None:
            desk, held = pending.desk, pending.held
            if held.is_over or desk.is_left:
                return
            try:
                answer(pending)
            except DatabaseUnreachableError as error:
                log.warning("told to leave while the database is away: %s", error)
            except Exception as error:
                if pending.is_asked and not isinstance(error, DatabaseFaultError):
                    self._reply(pending, error)
                    return
                log.exception("the sampler could not choose a point")
                self._say(desk, Broken(f"{type(error).__name__}: {error}", ExitCode.FAILED))

        self._questions.put(ask)

    def _choose(self, pending: Pending) -> None:
        """Have the sampler choose the point of a new trial."""
        desk, held = pending.desk, pending.held
        params, saw = desk.study.suggested(held.claim, None, partial(self._note, desk, held))
        self._inbox.put(writes.of_choice(desk, held, params, saw))

    def _go_on(self, pending: Pending) -> None:
        """Complete the parameters of a trial that is stored, and have it run."""
        desk, held, study = pending.desk, pending.held, pending.desk.study
        trial = held.trial
        assert trial is not None
        found = study.read(trial)
        params, _ = study.suggested(held.claim, found, partial(self._note, desk, held))
        missing = {name: value for name, value in params.items() if name not in found.params}
        self._inbox.put(
            Pending(
                desk,
                held,
                writes.of_further(desk, held, trial, missing),
                Then.RUN,
                pending.message,
                answer=study.completed(held.claim, found, missing),
            )
        )

    def _suggest(self, pending: Pending) -> None:
        """Have the sampler choose a parameter that the study file does not declare."""
        desk, held, message = pending.desk, pending.held, pending.message
        assert held.trial is not None
        assert isinstance(message, Suggest)
        note = partial(self._note, desk, held)
        value = desk.study.suggested_one(held, held.trial, message.name, message.distribution, note)
        self._inbox.put(
            writes.of_parameter(desk, held, held.trial, message.name, value, message.distribution, message)
        )

    def _note(self, desk: Desk, held: Held, of: Owner, key: str, value_json: str) -> None:
        """A sampler or pruner notes something: known at once, written with the next commit."""
        if held.trial is not None:
            desk.study.has_attribute(held.trial, of, key, value_json)
            self._inbox.put(writes.of_attribute(desk, held, held.trial, of, key, value_json))

    # Ends that the worker decides

    def _settle(self, item: _Left) -> None:
        """A runner is gone; whatever it holds is freed."""
        desk = item.desk
        held = desk.held
        try:
            if held is not None and not held.is_over:
                held.is_over = True
                if held.trial is not None:
                    desk.study.known.drop(held.trial.id)
                clock, lease = self._database.clock, held.lease
                verb = {
                    AttemptState.FAILED: partial(outcomes.fail, clock=clock, lease=lease, error=item.why),
                    AttemptState.LOST: partial(outcomes.lose, clock=clock, lease=lease, why=item.why),
                }.get(item.state, partial(outcomes.release, clock=clock, lease=lease, why=item.why))
                self._patiently(partial(end_if_live, lease=lease, verb=verb))
                self._say(desk, Ended(lease, item.state, error=item.why))
        except DatabaseFaultError as error:
            log.warning("a trial is freed when its lease expires: %s", error)
        finally:
            self._settled(desk)

    def _settled(self, desk: Desk) -> None:
        desk.is_left = True
        with self._lock:
            self._unsettled = self._unsettled - {desk}

    # Parts

    def _committed(self, entries: Sequence[Report | Write], look: Collection[ServedStudy]) -> list[Any]:
        def first(connection: Transaction) -> None:
            for study in look:
                study.look(connection)

        answers: list[Any] = self._trying(lambda write: attempts.commit(write, entries, first))
        return answers

    def _patiently(self, verb: Callable[[Transaction], Any]) -> Any:
        return self._trying(lambda write: write(verb))

    def _trying(self, call: Callable[[Callable[..., Any]], Any], *, write: bool = True) -> Any:
        """Write or read; while the database is away the runners are told, and it is tried until then."""
        try:
            return call(partial(self._database.once, write=write))
        except DatabaseUnreachableError as error:
            log.debug("%s", error)
        self._tell_all(Away(True))
        try:
            return call(self._database.write if write else self._database.read)
        finally:
            self._tell_all(Away(False))

    def _tell_all(self, message: ToRunner) -> None:
        for desk in self._desks:
            desk.tell(message)

    def _reply(self, pending: Pending, value: Any) -> None:
        assert pending.message is not None
        pending.desk.tell(Answer(pending.message.number, _sendable(value)))

    def _answer(self, desk: Desk, message: Numbered, error: Exception) -> None:
        told = _sendable(error)
        desk.tell(
            Answer(message.number, told) if writes.is_question(message) else Refused(message.serial, told)
        )

    def _fail(self, items: Sequence[_Item | None], error: DatabaseFaultError) -> None:
        """The database cannot be used: whoever waits for it is told so, and leaves."""
        log.warning("%s", error)
        for item in items:
            match item:
                case _Order():
                    self._say(item.desk, Broken(str(error), ExitCode.FAILED))
                case _Said():
                    self._answer(item.desk, item.message, error)
                case Pending():
                    self._say(item.desk, Broken(str(error), ExitCode.FAILED))
                case _Left():
                    self._settled(item.desk)  # its trial is freed when its lease expires
                case _:
                    continue

    def _say(self, desk: Desk, event: Any) -> None:
        self.events.append((desk, event))
        self._wake()


def _called_with(verb: Callable[[Transaction], Any], run: Callable[..., Any]) -> Any:
    return run(verb)


def _while_held(pending: Pending, connection: Transaction) -> Any:
    """Do something to the study for an attempt that holds its lease; its study is held before its ticket."""
    lease = pending.held.lease
    lost = leases.hold(connection, {lease}, ending={lease})
    if lost:
        raise lost[lease]
    return pending.act(connection)


def _sendable(value: Any) -> Any:
    """The value as it is; an error that only this process may know, or can make, as one that all do."""
    if not isinstance(value, Exception) or isinstance(value, StorageError | HpoError):
        return value
    if type(value) in (ValueError, TypeError):
        return value
    kind = next((kind for kind in (ValueError, TypeError) if isinstance(value, kind)), RuntimeError)
    return kind(f"{type(value).__name__}: {value}")
