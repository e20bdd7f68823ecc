"""TPE over what runs had at all rungs: each run is as good as the rungs it came to say together.

Values after one epoch mislead, and most runs of a study that parks or prunes have no others. So runs are
not compared by a value but by a quality in ranks: the share of runs that a run beats at the first rung, and
at each further rung half of that, half of the share it beats there, and a bonus for having come so far.
TPE then takes the best tenth for good, the rest and those that are still on their way to a rung for bad.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
from optuna import Study
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.search.draws import unit
from hpo.search.promotion import Ladder
from hpo.search.pruners import ladders
from hpo.spec.sampling import AnyPruner, AnySampler, AshaPruner, HyperbandPruner, RungsSampler

STARTUP = 9  # runs that have come to a rung before the estimator is used
EXPLORE = 0.1  # of the points are random ones
BONUS = 0.15  # for each rung after the first


def qualities(rungs: Sequence[Mapping[int, float]], *, maximize: bool) -> dict[int, float]:
    """How good each run is, by the number it has; the higher is the better, between 0 and about 1.3.

    Args:
        rungs: the lowest first: what each run had there, NaN or infinite where it was worthless.
        maximize: whether the higher value is the better one.
    """
    found: dict[int, float] = {}
    for rung in rungs:
        values = np.array([value if maximize else -value for value in rung.values()], dtype=float)
        values[~np.isfinite(values)] = -np.inf
        ordered = np.sort(values)
        below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        for number, share in zip(rung, (below / (2 * len(values))).tolist(), strict=True):
            found[number] = found[number] / 2 + share / 2 + BONUS if number in found else share
    return found


def estimator(seed: int, random: BaseSampler) -> TPESampler:
    """TPE, which is to read a study through `for_rungs`; `random` draws until there is enough to read."""
    made = TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True)
    made._random_sampler = random  # type: ignore[assignment]  # of the same methods
    return made


def explores(seed: int, ticket: int) -> bool:
    """Whether this ticket's point is a random one, whatever is known."""
    return unit(seed, ticket, "explore") < EXPLORE


def first_stop(sampler: AnySampler, ticket: int, ladder: Ladder) -> int:
    """The epoch at which a ticket's trial is parked first."""
    skips = isinstance(sampler, RungsSampler) and ticket >= sampler.warm and len(ladder.parking) > 1
    return ladder.epochs[1 if skips else 0]


def epochs_of(pruner: AnyPruner) -> tuple[int, ...]:
    """The epochs of the rungs, without the last: the pruner's, or each three times the one before."""
    if isinstance(pruner, AshaPruner | HyperbandPruner):
        return ladders(pruner)[0].parking
    return tuple(3**rung for rung in range(12))


def for_rungs(study: Study, epochs: Sequence[int], worthless: Callable[[FrozenTrial], bool]) -> Study:
    """The study as the estimator is to see it: every run that came to a rung is complete, with its quality.

    Args:
        study: its trials have their reports, also those that are parked or running.
        epochs: of the rungs but the last, the lowest first. A complete trial has come to the last one.
        worthless: whether a failed trial's setting is worse than any other.
    """
    view = copy.copy(study)  # Optuna's copies start without the list of trials from last time
    view._storage = cast(BaseStorage, _ByQuality(study, epochs, worthless))
    return view


class _ByQuality:
    """A storage that lists trials with their qualities, as they were when they were listed first."""

    def __init__(self, study: Study, epochs: Sequence[int], worthless: Callable[[FrozenTrial], bool]) -> None:
        self._storage = study._storage
        self._epochs = epochs
        self._worthless = worthless
        self._maximize = study.direction is StudyDirection.MAXIMIZE
        self._shown: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials in these states, by number."""
        if self._shown is None:
            trials = self._storage.get_all_trials(study_id, deepcopy=False)
            found = qualities(self._rungs(trials), maximize=self._maximize)
            found |= {trial.number: -1.0 for trial in trials if self._worthless(trial)}
            self._shown = [self._of_quality(trial, found.get(trial.number)) for trial in trials]
        return [trial for trial in self._shown if states is None or trial.state in states]

    def _of_quality(self, trial: FrozenTrial, quality: float | None) -> FrozenTrial:
        if quality is None:
            return trial
        shown = copy.copy(trial)
        shown.state = TrialState.COMPLETE
        shown.values = [quality if self._maximize else -quality]
        return shown

    def _rungs(self, trials: Sequence[FrozenTrial]) -> list[dict[int, float]]:
        """What the trials had at each rung, by number."""
        rungs: list[dict[int, float]] = [{} for _ in range(len(self._epochs) + 1)]
        for trial in trials:
            if trial.state is TrialState.FAIL:
                continue
            for rung, epoch in zip(rungs, self._epochs, strict=False):
                if (value := at(trial, epoch)) is not None:
                    rung[trial.number] = value
            if trial.state is TrialState.COMPLETE and trial.values:
                rungs[-1][trial.number] = trial.values[0]
        return [rung for rung in rungs if rung]


def at(trial: FrozenTrial, epoch: int) -> float | None:
    """What a trial had when it came to this epoch; None where it has not."""
    reported = trial.intermediate_values
    if epoch in reported:
        return reported[epoch]
    later = [step for step in reported if step > epoch]
    return reported[min(later)] if later else None
