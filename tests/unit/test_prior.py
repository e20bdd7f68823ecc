"""What another study observed steers the first suggestions of this one."""

from __future__ import annotations

import copy
import statistics

import optuna
import pytest
from optuna.trial import TrialState

from hpo.search.prior import WithPrior, prior_trials
from hpo.search.samplers import suggest
from hpo.search.space import random_point
from hpo.spec import StudySpec, parse_spec
from tests.support.sampling import provisional


def spec(sampler: str) -> StudySpec:
    axis = {"type": "float", "low": -10, "high": 10}
    return parse_spec(
        {
            "study": "s",
            "objective": "m",
            "direction": "minimize",
            "budget": {"trials": 10},
            "sampler": sampler,
            "space": {"x": axis, "y": axis},
        }
    )


def observed(made: StudySpec, count: int = 60) -> dict[str, object]:
    """Random points of a bowl whose bottom is (7, -3)."""
    points = [random_point(made, 1, ticket) for ticket in range(count)]
    trials = [{"params": p, "values": [(p["x"] - 7) ** 2 + (p["y"] + 3) ** 2]} for p in points]
    return {"study": "old", "trials": trials}


@pytest.mark.parametrize("sampler", ["tpe", "rungs", "gp"])
def test_first_suggestions_lie_near_the_priors_optimum(sampler: str) -> None:
    """Without it they are random: about 8 away on average."""
    made = spec(sampler)
    study = optuna.create_study()
    tickets = range(10 if sampler == "tpe" else 3)

    def distance(prior: tuple[optuna.trial.FrozenTrial, ...]) -> float:
        points = [suggest(made, study, provisional(), ticket, {}, prior) for ticket in tickets]
        return statistics.median(((p["x"] - 7) ** 2 + (p["y"] + 3) ** 2) ** 0.5 for p in points)

    prior = prior_trials(made, observed(made))
    assert distance(prior) < 3.5 < 6 < distance(())
    assert study.trials == [], "the study has no trial by it"


@pytest.mark.parametrize("sampler", ["random", "cmaes", "nsga2"])
def test_samplers_that_cannot_learn_from_it_are_shown_nothing(sampler: str) -> None:
    made = spec(sampler)
    assert prior_trials(made, observed(made)) == ()


@pytest.mark.parametrize("sampler", ["tpe", "rungs", "gp"])
def test_it_counts_as_much_as_trials_of_the_study_itself(sampler: str) -> None:
    """The same observations, once as a prior and once as own trials, lead to the same point."""
    made = spec(sampler)
    prior = prior_trials(made, observed(made, 20))
    own = optuna.create_study()
    own.add_trials([copy.copy(trial) for trial in prior])
    empty = optuna.create_study()
    shown = suggest(made, empty, provisional(), 0, {}, prior)
    assert shown == pytest.approx(suggest(made, own, provisional(), 0, {}))


def test_it_stands_before_the_studys_own_trials_and_only_among_complete_ones() -> None:
    made = spec("tpe")
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=1.0))
    study.ask()
    view = WithPrior(study._storage, prior_trials(made, observed(made, 2)))
    assert [trial.number for trial in view.get_all_trials(0)] == [0, 1, 2, 3]
    assert [trial._trial_id for trial in view.get_all_trials(0)] == [-3, -2, 0, 1]
    assert [trial.number for trial in view.get_all_trials(0, states=(TrialState.RUNNING,))] == [3]
    assert [trial.number for trial in study.trials] == [0, 1]
