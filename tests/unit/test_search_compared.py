"""Pruners that keep what they compare decide as those do that list all trials at each decision."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.search.compared import Compared, comparing
from hpo.search.pruners import Hyperband, make_pruner
from hpo.spec import parse_spec
from storage.queue.optuna_rows import DIVERGED
from storage.queue.rungs import Rung
from tests.support.pruning import RUNG, for_pruner

STEPS = 12
PRUNERS: list[dict[str, Any]] = [
    {"name": "median"},
    {"name": "median", "n_startup_trials": 0, "n_warmup_steps": 2, "interval_steps": 3},
    {"name": "percentile", "percentile": 30, "n_min_trials": 4, "n_startup_trials": 2},
    {"name": "asha", "max_epochs": STEPS},
    {"name": "asha", "max_epochs": 10, "reduction_factor": 2, "bootstrap_count": 3, "min_epochs": 2},
    {"name": "asha", "max_epochs": STEPS, "min_early_stopping_rate": 1},
    {"name": "hyperband", "max_epochs": STEPS},
    {"name": "hyperband", "max_epochs": 9, "reduction_factor": 2, "bootstrap_count": 1},
    {"name": "patient", "patience": 1, "wrapped": {"name": "hyperband", "max_epochs": STEPS}},
    {"name": "patient", "patience": 1, "wrapped": {"name": "median"}},
    {"name": "patient", "patience": 2},
    {"name": "threshold", "upper": 0.9},
    {"name": "none"},
]


class Increments:
    """A study's trials by what changed since, as `KnownTrials.since` tells them.

    Without the marks of Optuna's pruner: ours keeps its rungs itself.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._told: dict[int, str] = {}
        self._version = 0

    def __call__(self, version: int) -> tuple[int, Sequence[FrozenTrial]]:
        assert version == self._version
        changed = []
        for trial in self._study.get_trials():
            if self._told.get(trial._trial_id) != repr(trial):
                self._told[trial._trial_id] = repr(trial)
                changed.append(unmarked(trial))
        self._version += 1
        return self._version, changed


def unmarked(trial: FrozenTrial) -> FrozenTrial:
    """The trial as it is where Optuna's pruner noted nothing."""
    copied = copy.copy(trial)
    copied.system_attrs = {key: v for key, v in trial.system_attrs.items() if not key.startswith(RUNG)}
    return copied


@pytest.mark.filterwarnings("ignore:All-NaN", "ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("number", range(len(PRUNERS)))
def test_every_decision_is_optunas(number: int, direction: str) -> None:
    """On a history in which four trials run at once, repeat values, and end in every way there is."""
    spec = parse_spec(
        {
            "study": "replayed",
            "objective": "m",
            "direction": direction,
            "budget": {"trials": 9},
            "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
            "pruner": PRUNERS[number],
        }
    )
    draw = random.Random(number)
    pruner = make_pruner(spec)
    study = optuna.create_study(study_name="replayed", direction=direction, pruner=pruner)
    asked = getattr(pruner, "_wrapped_pruner", pruner)
    kept = Compared(
        Increments(study),
        maximize=direction == "maximize",
        group=(lambda trial: asked.bracket(study, trial)) if isinstance(asked, Hyperband) else lambda _: 0,
    )
    ours = comparing(pruner, kept)
    stored: list[Rung] = []
    decided = {True: 0, False: 0}
    running: dict[int, optuna.Trial] = {}
    for _ in range(250):
        if len(running) < 4:
            trial = study.ask({"x": FloatDistribution(0.0, 1.0)} if draw.random() < 0.9 else {})
            running[trial._trial_id] = trial
        trial = draw.choice(list(running.values()))
        reported = study._storage.get_trial(trial._trial_id).intermediate_values
        step = max(reported, default=0) + draw.choice([1, 1, 1, 2])
        value = math.nan if draw.random() < 0.02 else round(draw.random(), 1)
        trial.report(value, step)
        seen = study._storage.get_trial(trial._trial_id)
        mine = ours.prune(study, unmarked(seen))
        if draw.random() < 0.1:  # the commit failed: nothing is stored, and all of it is decided again
            kept.learn([])
            assert ours.prune(study, unmarked(seen)) == mine
        reached = kept.noted(trial._trial_id)
        kept.learn([*stored, *reached])  # some is told more than once
        stored = reached
        theirs = pruner.prune(for_pruner(study), seen)
        assert mine == theirs, (number, trial.number, step)
        decided[bool(theirs)] += 1
        if theirs or step >= STEPS:
            end(study, trial, TrialState.PRUNED if theirs else TrialState.COMPLETE, value)
        elif draw.random() < 0.04:
            end(study, trial, TrialState.FAIL, value, diverged=draw.random() < 0.6)
        else:
            continue
        del running[trial._trial_id]
    assert decided[False]
    assert decided[True] or PRUNERS[number] == {"name": "none"}


def end(
    study: optuna.Study, trial: optuna.Trial, state: TrialState, value: float, *, diverged: bool = False
) -> None:
    """The trial ends; Optuna takes no NaN for a result."""
    if diverged:
        study._storage.set_trial_system_attr(trial._trial_id, DIVERGED, True)
    values = [0.5 if math.isnan(value) else value] if state is TrialState.COMPLETE else None
    study._storage.set_trial_state_values(trial._trial_id, state, values)


def test_a_trial_that_changed_after_its_end_counts_as_it_is() -> None:
    """As when a process drops what it knew of one and reads it again."""
    before = optuna.trial.create_trial(
        value=0.5,
        intermediate_values={1: 0.5, 2: math.nan},
        system_attrs={"completed_rung_0": 0.5},
    )
    after = optuna.trial.create_trial(
        value=0.7,
        intermediate_values={1: 0.7, 2: 0.1},
        system_attrs={"completed_rung_0": 0.7, "completed_rung_1": 0.7},
    )
    told = [[before], [after]]
    kept = Compared(lambda version: (version + 1, told[version]), maximize=True)
    kept.refresh()
    assert (list(kept.at_step(1)), list(kept.at_rung(0, 0)), kept.complete) == ([0.5], [0.5], 1)
    kept.refresh()
    assert (list(kept.at_step(1)), list(kept.at_step(2)), kept.complete) == ([0.7], [0.1], 1)
    assert (list(kept.at_rung(0, 0)), list(kept.at_rung(0, 1))) == ([0.7], [0.7])


def test_a_rung_that_a_take_over_forgot_counts_no_more() -> None:
    kept = Compared(lambda version: (version, []), maximize=True)
    kept.learn([Rung(1, 0, 0, 1, 0.5), Rung(1, 1, 0, 3, 0.7), Rung(2, 0, 0, 1, 0.6)])
    kept.learn([Rung(1, 1, 0, 3, None)])
    assert (list(kept.at_rung(0, 0)), list(kept.at_rung(0, 1))) == ([0.5, 0.6], [])
    kept.learn([Rung(1, 1, 0, 3, 0.8)])
    assert list(kept.at_rung(0, 1)) == [0.8]
