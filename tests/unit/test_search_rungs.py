"""The sampler `rungs`: what runs had at all rungs, in ranks."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.search.diverged import is_worthless
from hpo.search.rungs import STARTUP, RungsSampler, at, epochs_of, explores, qualities, standing
from hpo.search.samplers import make_sampler, suggest
from hpo.search.space import distribution, random_point
from hpo.spec import StudySpec
from storage.database.records import CONSTRAINT
from storage.queue.optuna_rows import DIVERGED
from tests.support.sampling import provisional, spec

X = {"x": {"type": "float", "low": 0, "high": 1}}
ASHA = {"name": "asha", "max_epochs": 20}


def rungs() -> StudySpec:
    return spec("rungs", X, pruner=ASHA)


def add(study: optuna.Study, x: float, state: TrialState = TrialState.RUNNING, **had: float) -> None:
    """A trial at x that had these values after these epochs (`e1=0.5`)."""
    study.add_trial(
        create_trial(
            state=state,
            value=list(had.values())[-1] if state is TrialState.COMPLETE else None,
            params={"x": x},
            distributions={"x": distribution(rungs().space["x"])},
            intermediate_values={int(name[1:]): value for name, value in had.items()},
        )
    )


def test_the_quality_of_a_run_is_its_rank_at_the_first_rung_carried_upward() -> None:
    first = {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2}  # ranks in the middle of their place: 1/8, 7/8, 5/8, 3/8
    second = {2: 0.6, 3: 0.7}  # 1/4, 3/4
    assert qualities([first, second], maximize=True) == pytest.approx(
        {1: 0.125, 4: 0.375, 2: 0.875 / 2 + 0.25 / 2 + 0.15, 3: 0.625 / 2 + 0.75 / 2 + 0.15}
    )


def test_the_lower_is_the_better_where_the_study_minimises_and_no_number_is_the_worst() -> None:
    had = {1: 3.0, 2: math.nan, 3: 1.0, 4: math.inf}
    found = qualities([had], maximize=False)
    assert found[3] > found[1] > found[2] == found[4]
    assert qualities([{1: 5.0, 2: 5.0}], maximize=True) == {1: 0.5, 2: 0.5}, "equal ones share their place"


def test_a_run_that_skipped_the_first_rung_begins_at_the_one_it_came_to() -> None:
    assert qualities([{1: 0.1, 2: 0.2}, {3: 0.5}], maximize=True)[3] == 0.5


def test_the_value_at_a_rung_is_that_of_the_first_report_from_there_on() -> None:
    study = optuna.create_study()
    add(study, 0.5, e2=0.3, e4=0.1)
    trial = study.trials[0]
    assert [at(trial, epoch) for epoch in (1, 2, 3, 4, 5)] == [0.3, 0.3, 0.1, 0.1, None]


def test_the_rungs_are_those_of_the_pruner() -> None:
    assert epochs_of(rungs().pruner) == (1, 3, 9)
    assert epochs_of(spec("rungs").pruner)[:4] == (1, 3, 9, 27), "without any: three times the last"


def test_points_are_drawn_where_parked_runs_were_good() -> None:
    """Runs near 0.8 were the best at the only rung that any came to; nothing is complete."""
    study = optuna.create_study(direction="maximize")
    for number in range(60):
        x = random_point(rungs(), 5, number)["x"]
        add(study, x, e1=1 - abs(x - 0.8))
    found = [suggest(rungs(), study, provisional(60), ticket, {})["x"] for ticket in range(60, 100)]
    chosen = [x for ticket, x in enumerate(found, 60) if not explores(0, ticket, "x")]
    assert sum(abs(x - 0.8) < 0.15 for x in chosen) > 0.8 * len(chosen)


def test_what_a_rung_says_late_counts_more_than_what_the_first_said() -> None:
    """At epoch 1 the runs near 0.2 look best; of these, which went on, those with a higher x were better."""
    study = optuna.create_study(direction="maximize")
    for number in range(60):
        x = random_point(rungs(), 5, number)["x"]
        add(study, x, e1=1 - abs(x - 0.2), **({"e3": x, "e9": x} if x < 0.4 else {}))
    trials = study.get_trials()
    found = standing(trials, epochs_of(rungs().pruner), (), maximize=True)
    best = sorted(found, key=lambda number: -found[number])[:6]
    assert all(0.2 < trials[number].params["x"] < 0.4 for number in best)


def test_a_diverged_run_is_worse_than_any_then_those_that_break_a_constraint() -> None:
    study = optuna.create_study(direction="maximize")
    add(study, 0.1, e1=0.3)
    add(study, 0.2)
    study.add_trial(
        create_trial(
            state=TrialState.FAIL,
            params={"x": 0.3},
            distributions={"x": distribution(rungs().space["x"])},
            system_attrs={DIVERGED: True},
        )
    )
    add(study, 0.4, TrialState.PRUNED, e1=0.1)
    for broken in (3.0, 1.0, 0.0):
        add(study, 0.5, e1=9.0)
        trial = study._storage._get_trial(len(study.trials) - 1)  # type: ignore[attr-defined]
        trial.system_attrs[f"{CONSTRAINT}size"] = broken
    trials = study.get_trials()
    assert [trial.number for trial in trials if is_worthless(trial)] == [2]
    found = standing(trials, (1, 3, 9), {2}, maximize=True)
    assert sorted(found, key=lambda number: found[number]) == [2, 4, 5, 3, 0, 6], "1 is still on its way"


def test_random_values_depend_on_the_ticket_alone() -> None:
    """The first, and one in seven later: whatever others have found, however many runners there are."""
    few, many = (optuna.create_study(direction="maximize") for _ in range(2))
    for number in range(STARTUP - 1):
        add(few, number / 10, e1=number)
    for number in range(50):
        add(many, number / 50, e1=number)
    explored = [ticket for ticket in range(200) if explores(0, ticket, "x")]
    assert 15 <= len(explored) <= 45
    for ticket in explored[:5]:
        expected = random_point(rungs(), 0, ticket)
        assert suggest(rungs(), few, provisional(8), ticket, {}) == expected
        assert suggest(rungs(), many, provisional(50), ticket, {}) == expected
    modelled = next(ticket for ticket in range(200) if not explores(0, ticket, "x"))
    assert suggest(rungs(), few, provisional(8), modelled, {}) == random_point(rungs(), 0, modelled)
    assert suggest(rungs(), many, provisional(50), modelled, {}) != random_point(rungs(), 0, modelled)
    assert isinstance(make_sampler(rungs(), modelled), RungsSampler)


def test_a_study_whose_objective_suggests_for_itself_is_modelled_too() -> None:
    made = spec({"name": "rungs"}, {})
    study = optuna.create_study()
    for ticket in range(40):
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        asked = optuna.Trial(study, trial._trial_id)
        x = make_sampler(made, ticket).sample_independent(
            study, trial, "x", optuna.distributions.FloatDistribution(-9, 9)
        )
        study._storage.set_trial_param(trial._trial_id, "x", x, optuna.distributions.FloatDistribution(-9, 9))
        asked.report(x * x, 1)
        study.tell(trial.number, x * x)
    assert sum(abs(trial.params["x"]) < 3 for trial in study.trials[20:]) > 10


def test_a_parameter_whose_range_has_changed_is_learned_from_inside_its_range() -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(40):
        add(study, number / 40, e1=number / 40)
    held = optuna.distributions.FloatDistribution(0, 0.5)
    modelled = next(ticket for ticket in range(200) if not explores(0, ticket, "x"))
    x = make_sampler(rungs(), modelled).sample_independent(study, provisional(40), "x", held)
    assert 0 <= x <= 0.5


def test_a_parameter_whose_choices_have_changed_is_learned_from_those_that_are_left() -> None:
    was = optuna.distributions.CategoricalDistribution(("adam", "sgd", "lion"))
    held = optuna.distributions.CategoricalDistribution(("sgd", "lion"))
    study = optuna.create_study(direction="maximize")
    for number in range(60):
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params={"optimizer": was.choices[number % 3]},
                distributions={"optimizer": was},
                intermediate_values={1: float(number % 3 < 2)},  # adam and sgd are good
            )
        )
    modelled = [ticket for ticket in range(100) if not explores(0, ticket, "optimizer")]
    found = [
        make_sampler(rungs(), ticket).sample_independent(study, provisional(60), "optimizer", held)
        for ticket in modelled
    ]
    assert found.count("sgd") > 0.7 * len(found)


def test_runs_are_modelled_as_soon_as_nine_have_come_to_a_rung() -> None:
    study = optuna.create_study(direction="maximize")
    modelled = next(ticket for ticket in range(200) if not explores(0, ticket, "x"))
    at_random = random_point(rungs(), 0, modelled)
    for number in range(STARTUP):
        assert suggest(rungs(), study, provisional(number), modelled, {}) == at_random
        add(study, number / 10, e1=number)
    assert suggest(rungs(), study, provisional(STARTUP), modelled, {}) != at_random
