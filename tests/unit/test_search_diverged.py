"""A setting that diverged is worse than the worst: to every sampler that learns, and to pruners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.diverged import for_sampler, is_diverged, is_worthless
from hpo.search.prior import prior_trials
from hpo.search.pruners import make_pruner
from hpo.search.samplers import needs_stored_trial, suggest
from hpo.spec import StudySpec, parse_spec
from storage.queue.optuna_rows import BROKE, DIVERGED
from tests.support.pruning import for_pruner
from tests.support.sampling import provisional

CLIFF = 0.1  # above this learning rate training explodes
BEST = 0.01
LR = FloatDistribution(1e-4, 10.0, log=True)
DISTS = {"lr": LR, "other": FloatDistribution(0.0, 1.0)}
LEARNING: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 10},
    "gp": {"n_startup_trials": 8},
    "cmaes": {"n_startup_trials": 4},
    "nsga2": {"population_size": 10},
    "nsga3": {"population_size": 10},
}


def spec(sampler: str = "tpe", pruner: Any = "none", seed: int = 0, **more: Any) -> StudySpec:
    direction = {} if "directions" in more else {"direction": "minimize"}
    space = {
        "lr": {"type": "float", "low": 1e-4, "high": 10, "log": True},
        "other": {"type": "float", "low": 0, "high": 1},
    }
    base = {"study": "s", "objective": "m", "budget": {"trials": 99}, "space": space, "pruner": pruner}
    return parse_spec(
        {**base, **direction, "sampler": {"name": sampler, "seed": seed, **LEARNING[sampler]}, **more}
    )


def new_study(made: StudySpec) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name="fixed", directions=list(made.directions), pruner=make_pruner(made))


def loss(lr: float) -> float:
    return (math.log10(lr) - math.log10(BEST)) ** 2


def end(study: optuna.Study, point: dict[str, float], trial: FrozenTrial, values: Sequence[float]) -> None:
    """Store the trial's end: complete, or diverged above the cliff."""
    diverged = point["lr"] > CLIFF
    storage, number = study._storage, trial._trial_id
    if number < 0:
        number = storage.create_new_trial(study._study_id)
    for name, value in point.items():
        storage.set_trial_param(number, name, DISTS[name].to_internal_repr(value), DISTS[name])
    if diverged:
        storage.set_trial_system_attr(number, DIVERGED, True)
    storage.set_trial_state_values(
        number, TrialState.FAIL if diverged else TrialState.COMPLETE, None if diverged else values
    )


def search(made: StudySpec, count: int, study: optuna.Study | None = None) -> list[float]:
    """Learning rates in the order they were tried."""
    study = study or new_study(made)
    tried = []
    for ticket in range(count):
        trial = provisional(ticket)
        if needs_stored_trial(made):
            trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        point = suggest(made, study, trial, ticket, {})
        values = [loss(point["lr"])] + [point["other"]] * (len(made.directions) - 1)
        end(study, point, trial, values)
        tried.append(point["lr"])
    return tried


def add(study: optuna.Study, state: TrialState, lr: float, **fields: Any) -> None:
    study.add_trial(create_trial(state=state, params={"lr": lr, "other": 0.5}, distributions=DISTS, **fields))


def add_diverged(study: optuna.Study, lr: float, **fields: Any) -> None:
    attributes = {DIVERGED: True, **fields.pop("system_attrs", {})}
    add(study, TrialState.FAIL, lr, system_attrs=attributes, **fields)


# Samplers


def exploding(made: StudySpec, first: int, count: int) -> int:
    """How many of `count` trials, after the `first`, lie above the cliff."""
    return sum(lr > CLIFF for lr in search(made, first + count)[first:])


def test_tpe_leaves_the_region_that_explodes() -> None:
    """Knowing nothing of it, it draws there 31 times of these 32; now 4 times."""
    found = [exploding(spec("tpe", seed=seed), 16, 8) for seed in range(4)]
    assert sum(found) <= 8, found


def steeper(lr: float) -> float:
    """A loss that goes on falling until training explodes."""
    return -math.log10(lr)


def test_gp_leaves_the_region_that_explodes() -> None:
    """Knowing nothing of it, it follows the falling loss to 10."""
    made = spec("gp")
    study = new_study(made)
    for lr in (0.2, 0.8, 3.0, 9.0):
        add_diverged(study, lr)
    for lr in (0.0002, 0.0005, 0.001, 0.003, 0.006, 0.01, 0.03, 0.06):
        add(study, TrialState.COMPLETE, lr, value=steeper(lr))
    assert suggest(made, study, provisional(), 12, {})["lr"] < 0.2


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2"])
def test_with_several_directions_it_is_worst_in_each(name: str) -> None:
    made = spec(name, directions=["minimize", "maximize"])
    study = new_study(made)
    for i in range(12):
        add(study, TrialState.COMPLETE, 0.01, values=[1.0 + i, 5.0 - i])
        add_diverged(study, 1.0)
    seen = for_sampler(study, made).get_trials(deepcopy=False)
    shown = [trial for trial in seen if DIVERGED in trial.system_attrs]
    assert len(shown) == 12
    for trial in shown:
        if name == "tpe":
            assert sum(trial.constraints.values()) == math.inf
        else:
            assert trial.state is TrialState.COMPLETE
            assert trial.values[0] > 12.0
            assert trial.values[1] < -6.0
    if name != "nsga2":
        suggest(made, study, provisional(), 24, {})


def test_tpe_calls_none_good_where_few_trials_completed() -> None:
    """Most were pruned, by the hundred; a diverged trial must not fill up the good ones before those do."""
    made = spec("tpe")
    study = new_study(made)
    add(study, TrialState.COMPLETE, 0.01, value=1.0)
    for i in range(60):
        add(study, TrialState.PRUNED, 0.01 + i * 1e-4, intermediate_values={1: 2.0 + i})
    for _ in range(39):
        add_diverged(study, 1.0, intermediate_values={5: 0.0})
    assert [suggest(made, study, provisional(), t, {})["lr"] <= CLIFF for t in range(100, 110)].count(
        False
    ) <= 1


def test_tpe_calls_none_good_where_nearly_all_diverged() -> None:
    made = spec("tpe")
    study = new_study(made)
    for i in range(40):
        add_diverged(study, 0.5 + i * 0.05)
    assert len({suggest(made, study, provisional(), t, {})["lr"] for t in range(5)}) == 5, "at random yet"
    add(study, TrialState.COMPLETE, 0.001, value=1.0)
    found = [suggest(made, study, provisional(), t, {})["lr"] for t in range(41, 61)]
    assert sum(lr > CLIFF for lr in found) <= 4


def test_it_is_worse_for_tpe_than_one_that_breaks_a_constraint() -> None:
    made = spec("tpe")
    study = new_study(made)
    for i in range(9):
        add(study, TrialState.COMPLETE, 0.001, value=1.0, system_attrs={"constraints:memory": 5.0 + i})
        add_diverged(study, 1.0, system_attrs={"constraints:memory": -1.0})
    found = [suggest(made, study, provisional(), t, {})["lr"] for t in range(18, 28)]
    assert sum(lr > CLIFF for lr in found) <= 2


@pytest.mark.parametrize("name", ["gp", "nsga2", "cmaes"])
def test_where_trials_have_constraints_it_breaks_each_of_them_most(name: str) -> None:
    """GP refuses trials whose constraints differ in number, and one that diverged early set none."""
    made = spec(name)
    study = new_study(made)
    for i in range(8):
        add(
            study,
            TrialState.COMPLETE,
            0.001 * (i + 1),
            value=1.0 + i,
            system_attrs={"constraints:memory": i - 4.0},
        )
    add_diverged(study, 1.0)
    (shown,) = (t for t in for_sampler(study, made).get_trials(deepcopy=False) if DIVERGED in t.system_attrs)
    assert shown.constraints["memory"] > 3.0
    if name == "gp":
        suggest(made, study, provisional(), 9, {})


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.filterwarnings("error")
def test_where_nothing_else_ended_a_suggestion_is_made_all_the_same(name: str) -> None:
    made = spec(name)
    study = new_study(made)
    for i in range(10):
        add_diverged(study, 0.2 + i * 0.1)
    trial = provisional(10)
    if needs_stored_trial(made):
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    assert 1e-4 <= suggest(made, study, trial, 10, {})["lr"] <= 10


def test_cmaes_that_learns_from_pruned_trials_finds_it_worse_than_their_last_reports() -> None:
    made = spec("cmaes")
    changed = made.sampler.model_copy(update={"consider_pruned_trials": True})
    learning = made.model_copy(update={"sampler": changed})
    study = new_study(made)
    add(study, TrialState.COMPLETE, 0.01, value=1.0)
    add(study, TrialState.PRUNED, 0.01, intermediate_values={1: 3.0, 2: 7.0})
    add_diverged(study, 1.0)
    values = [for_sampler(study, one).get_trials(deepcopy=False)[-1].value or 0.0 for one in (made, learning)]
    assert 1.0 < values[0] < 7.0 < values[1]


def test_the_study_itself_keeps_its_failures() -> None:
    made = spec("gp")
    study = new_study(made)
    add_diverged(study, 1.0)
    add(study, TrialState.FAIL, 1.0)
    assert [is_diverged(trial) for trial in study.trials] == [True, False]
    view = for_sampler(study, made)
    assert [trial.state for trial in view.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert view.get_trials(states=(TrialState.FAIL,))[-1].number == 1


@pytest.mark.parametrize("name", LEARNING)
def test_a_setting_that_failed_as_often_as_it_was_tried_is_no_better_than_one_that_diverged(
    name: str,
) -> None:
    made = spec(name)
    study = new_study(made)
    add(study, TrialState.COMPLETE, 0.01, value=1.0)
    add(study, TrialState.FAIL, 1.0, system_attrs={BROKE: True})
    shown = for_sampler(study, made).get_trials(deepcopy=False)[-1]
    assert is_worthless(study.trials[-1])
    assert shown.state in (TrialState.PRUNED, TrialState.COMPLETE)
    assert shown.constraints or (shown.value or 0.0) > 1.0


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_what_diverged_in_the_study_it_starts_from_is_known_too(name: str) -> None:
    made = spec(name)
    done: dict[float, list[float] | None] = {
        lr: [steeper(lr)] for lr in (0.0002, 0.0005, 0.001, 0.005, 0.01, 0.03, 0.05, 0.08)
    }
    done |= dict.fromkeys((0.15, 0.3, 0.6, 1.2, 2.5, 5.0))
    trials = [{"params": {"lr": lr, "other": 0.5}, "values": values} for lr, values in done.items()]
    prior = prior_trials(made, {"study": "old", "trials": trials})
    tickets = range(1 if name == "gp" else 10)
    found = [suggest(made, new_study(made), provisional(), t, {}, prior)["lr"] for t in tickets]
    assert sum(lr > 0.3 for lr in found) <= len(found) // 5, found


# Pruners

ASHA = {"name": "asha", "min_epochs": 1, "max_epochs": 9, "reduction_factor": 2}


def reports(study: optuna.Study, values: Sequence[float]) -> bool:
    """Whether a new trial with these reports, at steps 1, 2, ... is pruned at the last of them."""
    trial = study.ask()
    for step, value in enumerate(values, start=1):
        trial.report(value, step)
    frozen = study._storage.get_trial(trial._trial_id)
    return study.pruner.prune(for_pruner(study), frozen)


@pytest.mark.parametrize(("direction", "good", "fair"), [("minimize", 0.1, 0.5), ("maximize", 0.9, 0.5)])
def test_what_was_fine_before_it_exploded_does_not_make_others_look_bad(
    direction: str, good: float, fair: float
) -> None:
    made = spec(pruner=ASHA, direction=direction)
    study = new_study(made)
    for _ in range(3):
        add_diverged(study, 1.0, intermediate_values={1: good}, system_attrs={"completed_rung_0": good})
    assert study.pruner.prune(study, study._storage.get_trial(_one(study, fair))), "without the view"
    assert not reports(study, [fair])


def _one(study: optuna.Study, value: float) -> int:
    trial = study.ask()
    trial.report(value, 1)
    return trial._trial_id


def test_one_that_exploded_before_a_rung_counts_there_as_the_worst() -> None:
    """Of four at the rung two go on, though two of the four never came so far."""
    made = spec(pruner=ASHA)
    study = new_study(made)
    add(
        study,
        TrialState.COMPLETE,
        0.01,
        value=0.1,
        intermediate_values={1: 0.1},
        system_attrs={"completed_rung_0": 0.1},
    )
    for _ in range(2):
        add_diverged(study, 1.0)
    assert not reports(study, [0.5])


def test_the_median_is_that_of_the_trials_that_completed() -> None:
    made = spec(pruner={"name": "median", "n_startup_trials": 3})
    study = new_study(made)
    for value in (0.1, 0.2, 0.3):
        add(study, TrialState.COMPLETE, 0.01, value=value, intermediate_values={1: value})
    for _ in range(10):
        add_diverged(study, 1.0, intermediate_values={1: 0.0})
    assert not reports(study, [0.19])
    assert reports(study, [0.21])
