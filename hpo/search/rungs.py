"""A search by what runs had at all rungs: each run is as good as the rungs it came to say together.

Values after one epoch mislead, and most runs of a study that parks or prunes have no others. So runs are
not compared by a value but by a quality in ranks: the share of runs that a run beats at the first rung, and
at each further rung half of that, half of the share it beats there, and a bonus for having come so far.
The best tenth are good, the rest and those that are still on their way to a rung are not, and each
parameter's value is one that sets the good ones apart (`hpo.search.parzen`), by itself: a joint density of
seven or eight parameters needs more runs than there are, and replays were no better with it. Now and then a
parameter is drawn at random, the others as known: a choice that is slow at first comes up beside good values
of the rest. Points that are random in all of them do not show what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.search.draws import bits, from_unit, unit
from hpo.search.parzen import sets_apart
from hpo.search.promotion import Ladder
from hpo.search.pruners import ladders
from hpo.spec.sampling import AnyPruner, AnySampler, AshaPruner, HyperbandPruner
from hpo.spec.sampling import RungsSampler as RungsOptions

STARTUP = 9  # runs that have come to a rung before points are drawn by what is known
GOOD, GOOD_AT_MOST = 0.1, 25  # the best of the runs, a share and a number
EXPLORE = 0.15  # of the values are random ones
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


def explores(seed: int, ticket: int, name: str) -> bool:
    """Whether this ticket's value of a parameter is a random one, whatever is known."""
    return unit(seed, ticket, f"explore {name}") < EXPLORE


def first_stop(sampler: AnySampler, ticket: int, ladder: Ladder) -> int:
    """The epoch at which a ticket's trial is parked first."""
    skips = isinstance(sampler, RungsOptions) and ticket >= sampler.warm and len(ladder.parking) > 1
    return ladder.epochs[1 if skips else 0]


def epochs_of(pruner: AnyPruner) -> tuple[int, ...]:
    """The epochs of the rungs, without the last: the pruner's, or each three times the one before."""
    if isinstance(pruner, AshaPruner | HyperbandPruner):
        return ladders(pruner)[0].parking
    return tuple(3**rung for rung in range(12))


class RungsSampler(BaseSampler):
    """The points of one ticket.

    Args:
        seed: the study's; with the ticket's number it gives every random number.
        ticket: its number.
        epochs: of the rungs but the last, the lowest first. A complete trial has come to the last one.
        worthless: whether a failed trial's setting is worse than any other.
    """

    def __init__(
        self, seed: int, ticket: int, epochs: Sequence[int], worthless: Callable[[FrozenTrial], bool]
    ) -> None:
        self._seed = seed
        self._ticket = ticket
        self._epochs = epochs
        self._worthless = worthless
        self._known: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: every parameter is drawn by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing: every parameter is drawn by itself."""
        self._raise_error_if_multi_objective(study)
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The ticket's value for `param_name`."""
        self._raise_error_if_multi_objective(study)
        if self._known is None:  # once for all parameters of a point
            self._known = self._split(study, trial)
        if not self._known[0] or explores(self._seed, self._ticket, param_name):
            return from_unit(param_distribution, unit(self._seed, self._ticket, param_name))
        rng = np.random.default_rng(bits(self._seed, self._ticket, f"rungs {param_name}", 128))
        good, others = (_values(some, param_name, param_distribution) for some in self._known)
        return sets_apart(rng, param_distribution, good, others)

    def _split(self, study: Study, asking: FrozenTrial) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The good trials and the others, the oldest first; none where too little is known."""
        listed = study._get_trials(deepcopy=False, use_cache=True)
        worthless = {trial.number for trial in listed if self._worthless(trial)}
        trials = [
            trial
            for trial in listed
            if trial.number in worthless
            or (trial.state not in (TrialState.FAIL, TrialState.WAITING) and trial.number != asking.number)
        ]
        found = standing(trials, self._epochs, worthless, maximize=study.direction is StudyDirection.MAXIMIZE)
        if len(found) < STARTUP:
            return [], []
        count = min(GOOD_AT_MOST, math.ceil(len(found) * GOOD))
        good = set(sorted(found, key=lambda number: (-found[number], number))[:count])
        return [t for t in trials if t.number in good], [t for t in trials if t.number not in good]


def standing(
    trials: Sequence[FrozenTrial], epochs: Sequence[int], worthless: Collection[int], *, maximize: bool
) -> dict[int, float]:
    """The quality of each trial that has come to a rung, by its number; below 0 of one that breaks a
    constraint, the more the lower, and lowest where a setting is worthless."""
    rungs: list[dict[int, float]] = [{} for _ in range(len(epochs) + 1)]
    for trial in trials:
        if trial.number in worthless:
            continue
        for rung, epoch in zip(rungs, epochs, strict=False):
            if (value := at(trial, epoch)) is None:
                break
            rung[trial.number] = value
        if trial.state is TrialState.COMPLETE and trial.values:
            rungs[-1][trial.number] = trial.values[0]
    found = qualities([rung for rung in rungs if rung], maximize=maximize)
    for trial in trials:
        if trial.number in worthless:
            found[trial.number] = -math.inf
        elif trial.number in found and (broken := sum(max(0.0, by) for by in trial.constraints.values())):
            found[trial.number] = -broken
    return found


def _values(trials: Sequence[FrozenTrial], name: str, held: Any) -> list[Any]:
    """What trials have for a parameter, of those that have it, in the range that it has now."""
    had = [trial.params[name] for trial in trials if name in trial.params]
    if isinstance(held, CategoricalDistribution):
        return [value for value in had if value in held.choices]
    return [value for value in had if isinstance(value, int | float) and held.low <= value <= held.high]


def at(trial: FrozenTrial, epoch: int) -> float | None:
    """What a trial had when it came to this epoch; None where it has not."""
    reported = trial.intermediate_values
    if epoch in reported:
        return reported[epoch]
    later = [step for step in reported if step > epoch]
    return reported[min(later)] if later else None
