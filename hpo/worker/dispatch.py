"""The broker hands out work: claims tickets for idle runners, and has their trials begin."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hpo.errors import CodeDiffersError
from hpo.runner.messages import Beginning, Broken, TakeOver, Task
from hpo.worker import writes
from hpo.worker.asker import Asker
from hpo.worker.code import CodeGuard
from hpo.worker.desk import Desk
from hpo.worker.events import Started
from hpo.worker.housekeeping import Housekeeper
from hpo.worker.repeats import ServedRepeats, of_claim
from hpo.worker.study import Held
from hpo.worker.writes import Pending, Then
from storage.database.engine import Transaction
from storage.database.records import Claim, Need, NothingToClaim
from storage.files import checkpoints
from storage.queue import tickets
from storage.queue.optuna_rows import Trial
from storage.queue.tickets import Takes

log = logging.getLogger(__name__)

_TRAINS_ANEW = (
    "a trial was promoted and has left no checkpoint: it trains anew. An objective that saves its state with "
    "trial.checkpoint.save(...) before it asks should_prune() goes on where it was"
)


@dataclass(frozen=True)
class Order:
    """Claim a ticket for a runner, of these needs."""

    desk: Desk
    takes: Takes = None


@dataclass(eq=False)
class Dispatch:
    """From an order to a trial that runs."""

    worker_id: str
    lease: float  # seconds
    asker: Asker
    housekeeper: Housekeeper
    say: Callable[[Desk, Any], None]  # tells the worker's loop what happened to a runner
    transact: Callable[[Callable[[Transaction], Any]], Any]  # runs a verb in a transaction that writes
    write: Callable[[Pending], None]  # writes something for an attempt
    is_draining: bool = False  # nothing more is claimed

    def wanted(self, orders: Sequence[Order]) -> list[Order]:
        """Those for which something is to be claimed; a worker that leaves says so to the others."""
        wanted = [order for order in orders if not order.desk.is_left]
        if not self.is_draining:
            return wanted
        for order in wanted:
            self.say(order.desk, NothingToClaim(False, "this worker leaves"))
        return []

    def claim(self, orders: Sequence[Order]) -> None:
        """Claim for the runners that are idle, those of a study together."""
        for study in {id(order.desk.study): order.desk.study for order in orders}.values():
            mine = [order for order in orders if order.desk.study is study]
            self.take(mine, self.transact(partial(self.claimed, mine)))

    def take(self, orders: Sequence[Order], found: Sequence[Any]) -> None:
        """Hand out what was claimed, now that it is committed."""
        for order, one in zip(orders, found, strict=True):
            self._take(order, one)

    def claimed(self, orders: Sequence[Order], connection: Transaction) -> list[Any]:
        """Claim for orders of one study, and begin what needs no more, in a transaction that writes.

        It can be repeated: what a slot has claimed is found again.
        """
        found: list[Any] = []
        taken: Counter[int] = Counter()  # by runner
        nothing: dict[int, NothingToClaim] = {}
        shares = self._shares(orders, connection)
        compared: set[CodeGuard] = set()  # of a runner, not of each of its lanes
        for order in orders:
            desk = order.desk
            if desk.runner in nothing or taken[desk.runner] >= shares:
                left = NothingToClaim(False, "what waits is left to other runners")
                found.append((nothing.get(desk.runner, left), None, {}))
                continue
            try:
                assert desk.guard is not None
                if desk.guard not in compared:
                    desk.guard.compare(connection)
                    compared.add(desk.guard)
            except CodeDiffersError as error:
                found.append(error)
                continue
            claim = tickets.claim_next(
                connection,
                desk.study.row.id,
                self.worker_id,
                desk.runner,
                desk.device,
                self.lease,
                order.takes,
                desk.slot,
                promote=None if desk.study.parking is None else desk.study.parking.promote,
                epochs=desk.study.reserves,
                none_waits=desk.study.none_waits,
            )
            if isinstance(claim, NothingToClaim):
                nothing[desk.runner] = claim
            else:
                taken[desk.runner] += 1
            trial: Trial | None = None
            params: Mapping[str, Any] = {}
            if isinstance(claim, Claim) and isinstance(desk.study, ServedRepeats):
                desk.study.claimed(connection, claim)
            elif isinstance(claim, Claim) and claim.trial_id is None and desk.study.is_drawn:
                params = desk.study.drawn(claim)
                trial = writes.start(connection, desk, claim, params, {}, is_new=True)
            found.append((claim, trial, params))
        return found

    @staticmethod
    def _shares(orders: Sequence[Order], connection: Transaction) -> float:
        """How many tickets a runner with lanes may take at once, so that others get theirs."""
        several = [order.desk for order in orders if order.takes == tickets.BESIDE]
        if not several or len({desk.runner for desk in several}) == len(several):
            return math.inf
        study = several[0].study
        return tickets.share(connection, study.row.id, several[0].runners)

    def _take(self, order: Order, found: Any) -> None:
        """What came of an order."""
        desk = order.desk
        if isinstance(found, CodeDiffersError):
            self.say(desk, Broken(str(found), found.exit_code))
            return
        claim, trial, params = found
        if isinstance(claim, NothingToClaim):
            if claim.ended and not claim.fault:
                self.housekeeper.sweep(desk.study)
            self.say(desk, claim)
            return
        desk.study.none_waits = max(desk.study.none_waits, claim.none_waits)
        held = desk.hold(claim)
        held.trial = trial
        if isinstance(desk.study, ServedRepeats):
            self._repeat(desk.study, held)
        elif trial is not None:
            self.begin(held, params)
        elif claim.trial_id is not None and claim.trial_number is not None:
            held.trial = Trial(claim.trial_id, claim.trial_number)
            desk.tell(self._task(held, None))
        elif desk.study.needs_stored_trial:
            self.write(writes.of_choice(held, {}, {}))
        else:
            self.asker.ask(Pending(held))

    def begin(self, held: Held, params: Mapping[str, Any]) -> None:
        """A new trial is in the database: let the runner run it."""
        study = held.desk.study
        if study.needs_stored_trial:
            self.asker.ask(Pending(held, then=Then.GO_ON))
        else:
            self._run(held, study.begin(held.claim, held.stored, params))

    def _repeat(self, study: ServedRepeats, held: Held) -> None:
        """Let the runner train a setting again, or look first for what an earlier attempt has left."""
        held.trial = of_claim(held.claim)
        beginning = study.begins_with(held.claim)
        if beginning is not None:
            self._run(held, beginning)
        else:
            held.desk.tell(self._task(held, None))

    def run(self, pending: Pending) -> None:
        """A stored trial has all its parameters: let the runner run it."""
        held, message = pending.held, pending.message
        if isinstance(message, TakeOver):
            self._started(held, message.step)
            study, claim = held.desk.study, held.claim
            parking, alone = study.parking, study.spec.lanes == 1
            if parking is None or message.finished:
                pending.answer_with(pending.answer)
                return
            if claim.is_promoted and message.step is None and not parking.trains_anew and alone:
                parking.trains_anew = True
                log.warning("%s", _TRAINS_ANEW)
            held.is_stopped = message.step is not None and parking.stops(claim, message.step)
            pending.answer_with(replace(pending.answer, stops=held.is_stopped))
        else:
            self._run(held, pending.answer)

    def _run(self, held: Held, beginning: Beginning) -> None:
        self._started(held, None)
        held.desk.tell(self._task(held, beginning))

    def _task(self, held: Held, beginning: Beginning | None) -> Task:
        study, claim = held.desk.study, held.claim
        return Task(
            serial=held.serial,
            folder=checkpoints.trial_key(study.row.uid, study.row.first_name, held.stored.number),
            attempt=claim.lease.attempt,
            seed=study.seed_of(claim),
            alone=claim.alone is Need.CARD,
            lost=bool(claim.lost),
            delivered=claim.parked,
            beginning=beginning,
            origin=study.origin_of(claim),
        )

    def _started(self, held: Held, resumed_from: int | None) -> None:
        claim, study = held.claim, held.desk.study
        its = (study.row.name, held.lease, held.stored.number, held.lease.attempt, resumed_from)
        self.say(held.desk, Started(*its, claim.is_promoted, claim.worked, study.repeats_trial(claim)))
