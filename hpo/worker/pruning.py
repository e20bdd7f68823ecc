"""Whether trials of one study go on, as its worker decides: by what is known of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import BasePruner

from hpo.search.compared import Compared, comparing
from hpo.search.pruners import Hyperband, UpToMaxEpochs, make_pruner, promotes
from hpo.search.view import changed
from hpo.spec import StudySpec, sampling
from hpo.worker.parking import Halving, Parking
from storage.database.engine import Transaction
from storage.database.records import StudyRow
from storage.history.known import KnownTrials
from storage.queue.optuna_rows import Trial
from storage.queue.rungs import Rung

if TYPE_CHECKING:
    from hpo.worker.desk import Held


class Pruning:
    """A study's pruner, and what it compares, kept up by what is new.

    Args:
        known: the study's trials.
        catch_up: has it learn which rungs are stored that were not.
        study: as a pruner sees it.
    """

    def __init__(
        self,
        row: StudyRow,
        spec: StudySpec,
        known: KnownTrials,
        catch_up: Callable[[Transaction], None],
        study: Callable[[], optuna.Study],
    ) -> None:
        self._row = row
        self._spec = spec
        self._known = known
        self._study = study
        self.pruner = make_pruner(spec)
        self.parking = Parking(row, spec, self.pruner, catch_up) if promotes(spec) else None
        several = len(row.spec["directions"]) > 1 and self.parking is None and self.keeps_rungs
        self._halving = Halving(row, spec, self.pruner) if several else self.parking

    @cached_property
    def compares(self) -> bool:
        """Whether the pruner looks at other trials when one reports."""
        if self.parking is not None:
            return False
        chosen = self._spec.pruner
        asked = chosen.wrapped if isinstance(chosen, sampling.PatientPruner) else chosen
        return asked is not None and not isinstance(asked, sampling.NoPruner | sampling.ThresholdPruner)

    @cached_property
    def keeps_rungs(self) -> bool:
        """Whether the pruner compares trials at rungs, which are stored with the report that came to one."""
        return isinstance(self._asked, UpToMaxEpochs | Hyperband)

    @property
    def is_own(self) -> bool:
        """Whether the pruner is a stranger's code, which may take its time."""
        return isinstance(self._spec.pruner, sampling.CustomPruner)

    @property
    def reserves(self) -> int:
        """Epochs of a budget of them that a new trial may do; what it does not is returned."""
        if self._spec.budget.epochs is None:
            return 0
        return self._spec.full_epochs or 0 if self.parking is None else self.parking.first_slice

    def learn(self, found: Sequence[Rung]) -> None:
        """Learn which rungs are stored that were not."""
        (self._halving or self._compared).learn(found)

    def prunes(self, trial: Trial) -> bool:
        """What a pruner without rungs says of a trial, given what is known of others."""
        return bool(self._comparing.prune(self._study(), self._known.get(trial.id)))

    def at_report(self, held: Held, step: int, values: tuple[float, ...]) -> tuple[bool, list[Rung]]:
        """What a pruner with rungs says of a trial that reports this, and the rungs it has come to.

        Given what the look in this very transaction has learnt, and others in it who were decided on before.
        """
        trial = held.stored
        own = self._known.get(trial.id)
        if self._halving is not None:
            held.steps.add(step)  # known learns of it with the commit, and more may stand in the same one
            seen = held.steps.union(own.intermediate_values)
            done = max((one for one in seen if one < step), default=0)
            return self._halving.at_reports(held.claim, trial.id, {step: values}, done)
        own = changed(own, intermediate_values={**own.intermediate_values, step: values[0]})
        return bool(self._comparing.prune(self._study(), own)), self._compared.noted(trial.id)

    @property
    def _asked(self) -> BasePruner:
        return getattr(self.pruner, "_wrapped_pruner", self.pruner)

    @cached_property
    def _compared(self) -> Compared:
        maximize = self._row.spec["directions"][0] == "maximize"
        asked = self._asked
        group = partial(asked.bracket, self._study()) if isinstance(asked, Hyperband) else None
        return Compared(self._known.since, maximize=maximize, group=group)

    @cached_property
    def _comparing(self) -> BasePruner:
        """The pruner as it decides here, by values that are kept up from one decision to the next."""
        return comparing(self.pruner, self._compared)
