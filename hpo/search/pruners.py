"""A spec's pruner as an Optuna pruner, its resources from the spec and nowhere else."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import cast

from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.trial import FrozenTrial

from hpo.search.promotion import Ladder
from hpo.spec import StudySpec
from hpo.spec import sampling as options


def make_pruner(spec: StudySpec) -> BasePruner:
    """The pruner a spec asks for. Two calls make pruners that decide alike, in any process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # PatientPruner, since Optuna 2.8
        return _made(spec.pruner)


def _made(pruner: options.AnyPruner) -> BasePruner:
    match pruner:
        case options.NoPruner() | options.AutoPruner() | options.CustomPruner():  # own: asked elsewhere
            return NopPruner()
        case options.MedianPruner():
            return MedianPruner(**options.told(pruner))
        case options.PercentilePruner():
            return PercentilePruner(**options.told(pruner))
        case options.AshaPruner():
            return UpToMaxEpochs(
                SuccessiveHalvingPruner(
                    min_resource=pruner.min_epochs,
                    reduction_factor=pruner.reduction_factor,
                    min_early_stopping_rate=pruner.min_early_stopping_rate,
                    bootstrap_count=pruner.bootstrap_count,
                ),
                pruner.max_epochs,
            )
        case options.HyperbandPruner():
            return Hyperband(pruner)
        case options.ThresholdPruner():
            return ThresholdPruner(**options.told(pruner))
        case options.WilcoxonPruner():
            import scipy.stats  # noqa: F401 -- half a second, which the first decision would wait for

            return WilcoxonPruner(**options.told(pruner))
        case options.PatientPruner():
            wrapped = None if pruner.wrapped is None else _made(pruner.wrapped)
            return PatientPruner(wrapped, pruner.patience, pruner.min_delta)


class UpToMaxEpochs(BasePruner):
    """Another pruner, silent once a trial has reached its last epoch.

    Successive halving knows no last epoch: with rungs at 1, 3 and 9 it would prune trials that
    have already done all their 9 epochs, and lose their results.
    """

    def __init__(self, pruner: BasePruner, max_epochs: int) -> None:
        self.pruner = pruner
        self.max_epochs = max_epochs

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether `trial` should end now."""
        step = trial.last_step
        if step is not None and step >= self.max_epochs:
            return False
        return self.pruner.prune(study, trial)


class Hyperband(HyperbandPruner):
    """Optuna's Hyperband, with its brackets known from the start and counted in whole numbers.

    Optuna's sets its brackets up at the first decision; until then a process takes every trial
    for one of bracket 0. It also counts them by a floating-point logarithm, which finds 5 brackets
    for 243 epochs and a factor of 3 (log(243, 3) is 4.999...), where there are 6.
    """

    def __init__(self, options: options.HyperbandPruner) -> None:
        super().__init__(
            min_resource=options.min_epochs,
            max_resource=options.max_epochs,
            reduction_factor=options.reduction_factor,
            bootstrap_count=options.bootstrap_count,
        )
        self._max_epochs = options.max_epochs
        self._n_brackets = bracket_count(options.min_epochs, options.max_epochs, options.reduction_factor)
        self._try_initialization(study=None)  # type: ignore[arg-type]  # it reads a study for "auto" only

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether `trial` should end now; never once it has done its last epoch."""
        return not self.is_last(trial) and super().prune(study, trial)

    def is_last(self, trial: FrozenTrial) -> bool:
        """Whether it has done its last epoch."""
        step = trial.last_step
        return step is not None and step >= self._max_epochs

    def bracket(self, study: Study, trial: FrozenTrial) -> int:
        """The bracket a trial belongs to, from the study's name and the trial's number; 0 prunes most."""
        return self._get_bracket_id(study, trial)

    def bracket_of(self, study: str, number: int) -> int:
        """As `bracket`, by the study's name and a number alone."""
        named, numbered = SimpleNamespace(study_name=study), SimpleNamespace(number=number)
        return self._get_bracket_id(cast(Study, named), cast(FrozenTrial, numbered))


def promotes(spec: StudySpec) -> bool:
    """Whether trials are parked at rungs, and promoted."""
    return getattr(spec.pruner, "mode", None) == "promote"


def ladders(pruner: options.AshaPruner | options.HyperbandPruner) -> list[Ladder]:
    """The rungs of each bracket: of successive halving there is one."""
    lowest, highest, factor = pruner.min_epochs, pruner.max_epochs, pruner.reduction_factor
    if isinstance(pruner, options.AshaPruner):
        return [Ladder.of(lowest, highest, factor, pruner.min_early_stopping_rate)]
    return [
        Ladder.of(lowest, highest, factor, skip) for skip in range(bracket_count(lowest, highest, factor))
    ]


def bracket_count(min_epochs: int, max_epochs: int, reduction_factor: int) -> int:
    """floor(log(max / min) to the base of the factor) + 1 (Li et al. 2018, Algorithm 1), exactly."""
    count, epochs = 1, min_epochs * reduction_factor
    while epochs <= max_epochs:
        count, epochs = count + 1, epochs * reduction_factor
    return count
