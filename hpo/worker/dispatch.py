"""The broker hands out work: claims tickets for idle runners, and has their trials begin."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hpo.errors import CodeDiffersError
from hpo.runner.messages import Beginning, Broken, TakeOver, Task
from hpo.worker import writes
from hpo.worker.asker import Asker
from hpo.worker.desk import Desk, Held
from hpo.worker.events import Started
from hpo.worker.housekeeping import Housekeeper
from hpo.worker.repeats import ServedRepeats, of_claim
from hpo.worker.study import ServedStudy
from hpo.worker.writes import Pending, Then
from storage.database.engine import Transaction
from storage.database.records import Need, NothingToClaim
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
    """Claim tickets of these needs for free places of one runner."""

    desks: Sequence[Desk]
    takes: Takes = None

    @property
    def study(self) -> ServedStudy:
        """What the runner serves."""
        return self.desks[0].study


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
        wanted = [order for order in orders if not order.desks[0].is_left]
        if not self.is_draining:
            return wanted
        for desk in (desk for order in wanted for desk in order.desks):
            self.say(desk, NothingToClaim(False, "this worker leaves"))
        return []

    def claim(self, orders: Sequence[Order]) -> None:
        """Claim for the runners that are idle, those of a study together."""
        for study in {id(order.study): order.study for order in orders}.values():
            mine = [order for order in orders if order.study is study]
            self.take(self.transact(partial(self.claimed, mine)))

    def take(self, found: Sequence[tuple[Desk, Any]]) -> None:
        """Hand out what was claimed, now that it is committed."""
        for desk, one in found:
            self._take(desk, one)

    def claimed(self, orders: Sequence[Order], connection: Transaction) -> list[tuple[Desk, Any]]:
        """Claim for orders of one study, and begin what needs no more, in a transaction that writes.

        It can be repeated: what a slot has claimed is found again.
        """
        most = self._shares(orders, connection)
        return [found for order in orders for found in self._claimed(order, most, connection)]

    def _claimed(self, order: Order, most: float, connection: Transaction) -> Iterator[tuple[Desk, Any]]:
        """What each place of a runner gets; at `most` so many get something."""
        first, study = order.desks[0], order.study
        try:
            assert first.guard is not None
            first.guard.compare(connection)
        except CodeDiffersError as error:
            yield from ((desk, error) for desk in order.desks)
            return
        claims, nothing = tickets.claim(
            connection,
            study.row.id,
            self.worker_id,
            first.runner,
            first.device,
            self.lease,
            order.takes,
            [desk.slot for desk in order.desks[: int(min(most, len(order.desks)))]],
            promote=None if study.pruning.parking is None else study.pruning.parking.promote,
            epochs=study.pruning.reserves,
            none_waits=study.none_waits,
        )
        drawn: dict[int, Mapping[str, Any]] = {}
        if isinstance(study, ServedRepeats):
            for claim in claims.values():
                study.claimed(connection, claim)
        elif study.is_drawn:
            drawn = {slot: study.drawn(one) for slot, one in claims.items() if one.trial_id is None}
        new = writes.start_drawn(connection, first, [(claims[slot], drawn[slot]) for slot in drawn])
        trials = dict(zip(drawn, new, strict=True))
        left = nothing or NothingToClaim(False, "what waits is left to other runners")
        for desk in order.desks:
            slot = desk.slot
            yield desk, (claims.get(slot, left), trials.get(slot), drawn.get(slot, {}))

    @staticmethod
    def _shares(orders: Sequence[Order], connection: Transaction) -> float:
        """How many tickets a runner with lanes may take at once, so that others get theirs."""
        several = [order for order in orders if order.takes == tickets.BESIDE and len(order.desks) > 1]
        if not several:
            return math.inf
        first = several[0].desks[0]
        return tickets.share(connection, first.study.row.id, first.runners)

    def _take(self, desk: Desk, found: Any) -> None:
        """What came of an order for this place."""
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
            parking, alone = study.pruning.parking, study.spec.lanes == 1
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
