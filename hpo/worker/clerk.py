"""The broker's clerk: writes what runners say, hands out what is claimed, and says what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from hpo.errors import CodeDiffersError, ExitCode
from hpo.runner.messages import Away, Broken, Finish, Numbered, Step
from hpo.worker import repeats, writes
from hpo.worker.asker import Asker
from hpo.worker.desk import Desk, Held
from hpo.worker.dispatch import Dispatch, Order
from hpo.worker.events import Ended
from hpo.worker.housekeeping import Housekeeper
from hpo.worker.study import ServedStudy
from hpo.worker.writes import Pending, Then
from storage.database.engine import Database, Transaction
from storage.database.errors import (
    DatabaseFaultError,
    DatabaseUnreachableError,
    LeaseLostError,
    StorageError,
)
from storage.database.records import AttemptState, Need, NothingToClaim
from storage.queue import attempts, leases, outcomes
from storage.queue.attempts import Entry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Said:
    """A runner said something of the attempt it holds."""

    desk: Desk
    message: Numbered


@dataclass(frozen=True)
class Left:
    """A runner is gone. What it still holds ends so: `failed`, `lost` or `released`."""

    desk: Desk
    state: AttemptState
    why: str
    blames: bool = True  # a failure may be the worker's fault
    need: Need = Need.NOTHING  # it is set aside


@dataclass(frozen=True)
class Own:
    """Something of the worker's own."""

    verb: Callable[[Transaction], Any]


Item = Order | Said | Pending | Left | Own


@dataclass(eq=False)
class Clerk:
    """Works in one thread, and is the only one that writes for runners."""

    database: Database
    worker_id: str
    lease: float  # seconds
    asker: Asker
    housekeeper: Housekeeper
    say: Callable[[Desk, Any], None]  # tells the worker's loop what happened to a runner
    tell_all: Callable[[Any], None]  # tells every runner something
    settled: int = 0  # runners whose end is written

    def __post_init__(self) -> None:
        its = self.worker_id, self.lease, self.asker, self.housekeeper, self.say
        self.dispatch = Dispatch(*its, self._patiently, lambda pending: self._commit([pending]))

    def handle(self, items: Sequence[Item]) -> None:
        """Write what came, in the order it came, and claim what was ordered.

        The claims go with the last group where they are of the same study: the disk is waited for once.
        """
        rest = list(items)
        try:
            last = self._write([item for item in rest if not isinstance(item, Order)])
            orders = self.dispatch.wanted([item for item in rest if isinstance(item, Order)])
            if self._is_one_study(last, orders):
                self._commit(last, orders)
            else:
                self._commit(last)
                self.dispatch.claim(orders)
        except DatabaseFaultError as error:
            self.fail(rest, error)

    @staticmethod
    def _is_one_study(group: Sequence[Pending], orders: Sequence[Order]) -> bool:
        """Whether there is something to write, and all is of one study: locks are taken study by study."""
        studies = {one.desk.study.row.id for one in group} | {one.study.row.id for one in orders}
        return len(studies) == 1 and any(pending.entries for pending in group)

    def _write(self, items: Sequence[Any]) -> list[Pending]:
        """Group commits, each ended by something of the worker's own; the last group is returned."""
        group: list[Pending] = []
        for item in items:
            if isinstance(item, Own | Left):
                self._commit(group)
                group = []
                if isinstance(item, Own):
                    self._patiently(item.verb)
                else:
                    self._settle(item)
            elif (pending := self._pending(item)) is not None:
                group.append(pending)
        return group

    def _pending(self, item: Said | Pending) -> Pending | None:
        """What is to be written of an item; None where it is refused."""
        desk, held = item.desk, item.desk.held
        if isinstance(item, Pending):
            return item if item.held is held and not held.is_over else None
        message = item.message
        if held is None or message.serial != held.serial:
            return None  # left over from a trial that is over
        if held.is_over or held.lost is not None:
            self._answer_stale(held, message)
            return None
        if isinstance(message, Finish) and message.state is AttemptState.LOST:
            held.lost = message.error or "lost"
            self._answer_stale(held, message)
            return None
        try:
            said = repeats if isinstance(desk.study, repeats.ServedRepeats) else writes
            pending: Pending = said.of_message(held, message)
            return pending
        except Exception as error:  # it, or what made it, is wrong
            desk.refuse(message, error)
            return None

    def _answer_stale(self, held: Held, message: Numbered) -> None:
        """An attempt that may write no more said something; its end is counted once."""
        why = held.lost or "this attempt has ended"
        if isinstance(message, Finish) and not held.is_over:
            self._patiently(partial(leases.note_rejected, lease=held.lease))
            self._over(held, Ended(held.lease, AttemptState.LOST, error=why))
        held.desk.refuse(message, LeaseLostError(why))

    def _commit(self, group: Sequence[Pending], orders: Sequence[Order] = ()) -> None:
        """Write a group, and claim for these orders with it; then say what came of it."""
        if not group:
            return
        entries = [entry for pending in group for entry in pending.entries]
        # Before a pruner is asked: with the values it will compare, where they are in the same group.
        look = {p.desk.study for p in group if p.desk.study.pruning.compares and isinstance(p.message, Step)}
        for study in look:
            if not study.has_looked:  # all there is to read; nobody's write waits for that
                self._patiently(study.look, write=False)
        claimed: list[Any] = []
        answers = iter(self._committed(entries, look, orders, claimed) if entries else ())
        for pending in group:
            results = [next(answers) for _ in pending.entries]
            refused = next((one for one in results if isinstance(one, Exception)), None)
            if refused is not None:
                self._refuse(pending, refused)
                continue
            pending.learn()
            if pending.then is not None:
                self._follow(pending, results[-1] if results else None)
        self.dispatch.take(claimed)

    def _follow(self, pending: Pending, result: Any) -> None:
        """What a write was for."""
        held = pending.held
        match pending.then:
            case Then.ANSWER:
                pending.answer_with(result if result is not None else pending.answer)
            case Then.BEGIN:
                held.trial = result
                self.dispatch.begin(held, pending.params or {})
            case Then.RUN:
                self.dispatch.run(pending)
            case Then.PRUNE if held.claim.copies is not None:
                pending.answer_with(False)
            case Then.PRUNE if not pending.desk.study.pruning.is_own:
                _answer(pending, lambda: self._should_prune(pending))
            case Then.ACT:
                self._act(pending)
            case Then.END:
                self._ended(pending)
            case _:  # what takes long
                self.asker.ask(pending)

    def _should_prune(self, pending: Pending) -> bool:
        held, pruning = pending.held, pending.desk.study.pruning
        if not pruning.keeps_rungs:
            return pruning.prunes(held.stored)
        verdicts, held.verdicts = held.verdicts, {}
        held.is_stopped |= any(verdicts.values())
        return any(verdicts.values())

    def _act(self, pending: Pending) -> None:
        try:
            act = partial(leases.while_held, lease=pending.held.lease, verb=pending.act)
            _answer(pending, lambda: self.database.write_once(act))
        except LeaseLostError as error:
            self._refuse(pending, error)

    def _refuse(self, pending: Pending, why: Exception) -> None:
        """The lease is lost, the database does not take a value, or a result may not count."""
        desk, held = pending.desk, pending.held
        told = why
        if not isinstance(why, StorageError | CodeDiffersError):
            told = ValueError(f"the database does not take this: {writes.shortened(why)}")
        if isinstance(why, LeaseLostError):
            held.lost = str(why)
        if (
            pending.then in (Then.BEGIN, Then.RUN) and pending.message is None
        ):  # its runner knows nothing of it
            held.is_over = True
            lost = held.lost is not None
            self.say(desk, NothingToClaim(False, str(why)) if lost else Broken(str(told), ExitCode.FAILED))
            return
        if held.lost is not None:
            if pending.message is not None:
                self._answer_stale(held, pending.message)
            return
        if pending.end is None:
            held.error = held.error or told
        if pending.message is not None:
            desk.refuse(pending.message, told)

    def _ended(self, pending: Pending) -> None:
        """An attempt's end is written."""
        assert pending.end is not None
        desk, held = pending.desk, pending.held
        self._over(held, pending.end)
        pending.answer_with(None)
        if held.trial is not None:
            self.housekeeper.let_go(desk.study, held.trial, AttemptState(pending.end.state), held.claim)

    def _over(self, held: Held, ended: Ended) -> None:
        self._forget(held)
        self.say(held.desk, ended)

    @staticmethod
    def _forget(held: Held) -> None:
        held.is_over = True
        if held.trial is not None:
            held.desk.study.known.drop(held.trial.id)

    def _settle(self, item: Left) -> None:
        """A runner is gone; whatever it holds is freed."""
        desk = item.desk
        held = desk.held
        try:
            if held is not None and not held.is_over:
                self._forget(held)
                lease, why, verb = held.lease, item.why, partial(outcomes.release, why=item.why)
                if item.need:
                    verb = partial(outcomes.set_aside, error=why, need=item.need, state=item.state)
                elif item.state is AttemptState.FAILED:
                    verb = partial(outcomes.fail, error=why, blames=item.blames)
                elif item.state is AttemptState.LOST:
                    verb = partial(outcomes.lose, why=why)
                verb = partial(verb, lease=lease)
                with suppress(LeaseLostError):  # it was over already
                    self._patiently(partial(leases.while_held, lease=lease, verb=verb))
                self.say(desk, Ended(lease, item.state, error=item.why))
        except DatabaseFaultError as error:
            log.warning("a trial is freed when its lease expires: %s", error)
        self._settled(desk)

    def _settled(self, desk: Desk) -> None:
        if not desk.is_left:
            desk.is_left = True
            self.settled += 1

    def _committed(
        self,
        entries: Sequence[Entry],
        look: Collection[ServedStudy],
        orders: Sequence[Order],
        claimed: list[Any],
    ) -> list[Any]:
        def first(connection: Transaction) -> None:
            for study in look:
                study.look(connection)
            claimed[:] = self.dispatch.claimed(orders, connection) if orders else ()

        answers: list[Any] = self._trying(lambda write: attempts.commit(write, entries, first))
        if orders and any(
            isinstance(one, Exception) and not isinstance(one, StorageError) for one in answers
        ):
            # What the database did not take was rolled back, and perhaps the claims with it.
            claimed[:] = self._patiently(partial(self.dispatch.claimed, orders))
        return answers

    def _patiently(self, verb: Callable[[Transaction], Any], *, write: bool = True) -> Any:
        return self._trying(lambda run: run(verb), write=write)

    def _trying(self, call: Callable[[Callable[..., Any]], Any], *, write: bool = True) -> Any:
        """Write or read; while the database is away the runners are told, and it is tried until then."""
        try:
            return call(partial(self.database.once, write=write))
        except DatabaseUnreachableError as error:
            log.debug("%s", error)
        self.tell_all(Away(True))
        try:
            return call(self.database.write if write else self.database.read)
        finally:
            self.tell_all(Away(False))

    def fail(self, items: Sequence[Item | None], error: DatabaseFaultError) -> None:
        """The database cannot be used: whoever waits for it is told so, and leaves."""
        log.warning("%s", error)
        for item in items:
            match item:
                case Order(desks=desks):
                    for desk in desks:
                        self.say(desk, Broken(str(error), ExitCode.FAILED))
                case Pending():
                    self.say(item.desk, Broken(str(error), ExitCode.FAILED))
                case Said():
                    item.desk.refuse(item.message, error)
                case Left():
                    self._settled(item.desk)  # its trial is freed when its lease expires


def _answer(pending: Pending, find: Callable[[], Any]) -> None:
    """Answer with what `find` returns, or with the error it raises: a pruner's own, say, as in Optuna."""
    try:
        pending.answer_with(find())
    except (DatabaseUnreachableError, DatabaseFaultError, LeaseLostError):
        raise
    except Exception as error:
        pending.answer_with(error)
