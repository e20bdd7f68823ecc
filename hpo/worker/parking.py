"""Parking and promoting in one study, as a worker sees it: which trial stops where, and which goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from hpo.search.promotion import Ladder, Standing
from hpo.search.pruners import Hyperband, ladders
from hpo.search.rungs import first_stop
from hpo.spec import StudySpec
from hpo.spec.sampling import AshaPruner, HyperbandPruner
from hpo.spec.sections import MAX_TRIALS
from storage.database.engine import Transaction
from storage.database.records import Claim, StudyRow
from storage.history.known import read_whole
from storage.queue import tickets
from storage.queue.rungs import Rung
from storage.queue.tickets import Goes, Parked


class Halving:
    """The rungs of a study whose pruner compares trials there itself, not as Optuna's does: what is known of
    them, and who stops. In a study of several directions in which trials are not promoted, for good.
    """

    def __init__(self, row: StudyRow, spec: StudySpec, pruner: BasePruner) -> None:
        assert isinstance(spec.pruner, AshaPruner | HyperbandPruner)
        self._row = row
        self._options = spec.pruner
        self._pruner = pruner
        directions = row.spec["directions"]
        self._standing = Standing(ladders(spec.pruner), spec.pruner.reduction_factor, directions)

    def learn(self, found: Sequence[Rung]) -> None:
        """Learn which rungs are stored that were not."""
        self._standing.learn(found)

    def at_reports(
        self, claim: Claim, trial_id: int, reports: Mapping[int, Sequence[float]], done: int = 0
    ) -> tuple[bool, list[Rung]]:
        """Whether a trial stops at the last of these reports, and the rungs that it comes to with them.

        `done`: epochs it had done before them.
        """
        bracket, ladder = self._ladder(claim)
        reached, is_nan = [], False
        for step, (value, *further) in sorted(reports.items()):
            is_nan = any(map(math.isnan, (value, *further)))
            if not is_nan:
                found = ladder.reached(done, step)
                reached += [Rung(trial_id, rung, bracket, step, value, tuple(further)) for rung in found]
            done = max(done, step)
        return is_nan or self._stops(claim, done, reached), reached

    def _stops(self, claim: Claim, done: int, reached: Sequence[Rung]) -> bool:
        if claim.copies is not None:
            return False
        self.learn(reached)
        return not all(self._standing.goes_on(rung, self._options.bootstrap_count) for rung in reached)

    def _ladder(self, claim: Claim) -> tuple[int, Ladder]:
        """A trial's bracket, by its ticket's number, and its rungs."""
        bracket = 0
        if isinstance(self._pruner, Hyperband):
            bracket = self._pruner.bracket_of(self._row.name, claim.number)
        return bracket, self._standing.ladders[bracket]


class Parking(Halving):
    """What is known of a study's rungs and of the trials that are parked there; its pruner promotes.

    `catch_up` has it learn which rungs are stored that were not.
    """

    def __init__(
        self, row: StudyRow, spec: StudySpec, pruner: BasePruner, catch_up: Callable[[Transaction], None]
    ) -> None:
        super().__init__(row, spec, pruner)
        self.trains_anew = False  # a promoted trial had no checkpoint, and that was said
        self._sampler = spec.sampler
        self._catch_up = catch_up
        self._shown: dict[int, tuple[int, FrozenTrial]] = {}  # by id: after so many attempts, as pruned

    def promote(self, connection: Transaction) -> Callable[[Parked, float], Goes | None]:
        """Which parked trial goes on (`tickets.Promote`)."""
        self._catch_up(connection)
        return self._standing.promotion

    @property
    def first_slice(self) -> int:
        """The most epochs that a new trial does before it is parked."""
        return max(first_stop(self._sampler, MAX_TRIALS, ladder) for ladder in self._standing.ladders)

    def stops(self, claim: Claim, done: int) -> bool:
        """Whether a trial that has done so many epochs is to be parked."""
        _, ladder = self._ladder(claim)
        if claim.copies is not None:
            return False
        stop = claim.stop_at or first_stop(self._sampler, claim.number, ladder)
        return stop <= done < ladder.epochs[-1]

    def _stops(self, claim: Claim, done: int, reached: Sequence[Rung]) -> bool:
        return self.stops(claim, done)

    def look(self, connection: Transaction) -> None:
        """Learn which trials are parked, and with what."""
        parked = tickets.parked(connection, self._row.id)
        new = [one for one, attempts in parked.items() if self._shown.get(one, (0,))[0] != attempts]
        read = {trial._trial_id: trial for trial in read_whole(connection, new)} if new else {}
        for trial in read.values():
            trial.state = TrialState.PRUNED
        self._shown = {
            one: (attempts, read[one]) if one in read else self._shown[one]
            for one, attempts in parked.items()
        }

    def shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """These trials as samplers see them: a parked one as one that was pruned there.

        So it teaches what it has come to, and keeps nobody away from its point.
        """
        parked = self._shown
        return [parked[t._trial_id][1] if t._trial_id in parked else t for t in trials] if parked else trials
