"""Suggestions: seeded by ticket, within the active space, as good as Optuna's own loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, cast

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import SpecError
from hpo.search.samplers import TicketSampler, make_sampler, needs_stored_trial, suggest
from hpo.search.space import distribution, random_point
from hpo.search.view import through
from hpo.spec.conditions import active
from tests.support.sampling import NUMBERS, SPACE, history, loss, provisional, run, spec, sphere

FREE_OF_HISTORY = ["random", "qmc"]
UNSTORED = ["random", "qmc", "tpe", "rungs", "gp"]
GENETIC = ["nsga2", "nsga3"]
EVERY = [*UNSTORED, "cmaes", *GENETIC]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


# What every sampler must do


@pytest.mark.parametrize("name", EVERY)
def test_a_suggestion_holds_exactly_the_active_parameters(name: str) -> None:
    options = {"name": name, "n_startup_trials": 4} if name in ("tpe", "gp") else {"name": name}
    made = spec(options | ({"population_size": 5} if name in GENETIC else {}))
    for point in run(made, optuna.create_study(), 5 if name == "gp" else 25):
        assert list(point) == active(made.space, point)
        for key, value in point.items():
            dist = distribution(made.space[key])
            assert dist._contains(dist.to_internal_repr(value))
            assert value == dist.to_external_repr(dist.to_internal_repr(value))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.filterwarnings("error")
def test_the_same_ticket_and_history_give_the_same_point(name: str) -> None:
    made = spec({"name": name, "seed": 3})
    count = 4 if name == "gp" else 15
    first = run(made, optuna.create_study(), count)
    assert run(made, optuna.create_study(), count) == first
    assert run(spec({"name": name, "seed": 4}), optuna.create_study(), count) != first


@pytest.mark.parametrize("name", ["tpe", "rungs", "gp", "random", "qmc"])
def test_tickets_suggested_at_the_same_moment_differ(name: str) -> None:
    made = spec(name)
    study = optuna.create_study()
    history(study, made, 12)
    found = [suggest(made, study, provisional(12), ticket, {}) for ticket in range(3 if name == "gp" else 20)]
    assert len({point["lr"] for point in found}) == len(found)


@pytest.mark.parametrize("name", EVERY)
def test_fixed_values_are_taken_as_they_are(name: str) -> None:
    made = spec(name)
    study = optuna.create_study()
    history(study, made, 12)
    trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    fixed = {"opt": "sgd", "momentum": 0.25, "lr": 0.123, "layers": 2}
    point = suggest(made, study, trial, 3, fixed)
    assert {key: point[key] for key in fixed} == fixed
    assert list(point) == active(made.space, point), "the rest comes from the sampler"


@pytest.mark.parametrize("name", EVERY)
def test_a_point_that_is_fixed_altogether_asks_nobody(name: str) -> None:
    made = spec(name)
    point = random_point(made, 0, 0)
    nobody = cast(optuna.Study, None)
    if name in ("tpe", "rungs", "gp", "cmaes", *GENETIC):
        study = optuna.create_study()
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        assert suggest(made, study, trial, 0, point) == point
        assert study._storage.get_trial(trial._trial_id).system_attrs == {}
    else:
        assert suggest(made, nobody, provisional(), 0, point) == point


def test_fixed_values_that_turn_out_inactive_are_left_out() -> None:
    made = spec("random")
    study = cast(optuna.Study, None)
    for ticket in range(20):
        point = suggest(made, study, provisional(), ticket, {"momentum": 0.5})
        assert ("momentum" in point) == (point["opt"] == "sgd")
        assert point.get("momentum", 0.5) == 0.5


@pytest.mark.parametrize("name", FREE_OF_HISTORY)
def test_random_and_qmc_never_touch_the_study(name: str) -> None:
    made = spec(name)
    point = suggest(made, cast(optuna.Study, None), cast(FrozenTrial, None), 5, {})
    assert list(point) == active(made.space, point)


@pytest.mark.parametrize("name", ["tpe", *GENETIC])
def test_several_directions_are_served(name: str) -> None:
    options = {"name": name} | ({"population_size": 6} if name in GENETIC else {"n_startup_trials": 5})
    made = spec(options, directions=["minimize", "maximize"])
    study = optuna.create_study(directions=["minimize", "maximize"])
    run(made, study, 30, lambda point: (loss(point), float(point["hidden"])))
    assert len(study.best_trials) > 1


# Grid


def test_a_grids_ticket_is_its_cell() -> None:
    made = spec("grid", {"a": SPACE["layers"], "b": SPACE["opt"]}, budget={})
    nothing = cast(Any, None)
    assert suggest(made, nothing, nothing, 3, {"a": 2, "b": "sgd"}) == {"a": 2, "b": "sgd"}


def test_a_grids_ticket_without_a_whole_cell_is_refused() -> None:
    made = spec("grid", {"a": SPACE["layers"], "b": SPACE["opt"]}, budget={})
    nothing = cast(Any, None)
    with pytest.raises(SpecError, match="ticket 3 of the grid lacks values for b"):
        suggest(made, nothing, nothing, 3, {"a": 2})


# Random


def test_a_random_suggestion_is_the_tickets_random_point() -> None:
    made = spec({"name": "random", "seed": 11})
    nothing = cast(Any, None)
    for ticket in range(30):
        assert suggest(made, nothing, nothing, ticket, {}) == random_point(made, 11, ticket)


class TestTicketSamplerKeepsOptunasContract(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's published suite for samplers."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: TicketSampler(0, 0)


def test_undeclared_names_are_drawn_by_ticket_too() -> None:
    made = spec("random", {})

    def values(ticket: int) -> tuple[float, int]:
        trial = optuna.create_study(sampler=make_sampler(made, ticket)).ask()
        return trial.suggest_float("x", 0, 1), trial.suggest_int("n", 0, 10**6)

    assert values(4) == values(4)
    assert len({values(ticket) for ticket in range(20)}) == 20


# TPE


def test_tpe_needs_no_stored_trial_and_writes_nothing(tmp_path: Any) -> None:
    made = spec("tpe")
    storage = RDBStorage(f"sqlite:///{tmp_path / 'x.db'}")
    study = optuna.create_study(storage=storage)
    history(study, made, 15)
    before = [(t.number, t.system_attrs) for t in study.get_trials()]
    point = suggest(made, study, provisional(15), 15, {})
    assert list(point) == active(made.space, point)
    assert [(t.number, t.system_attrs) for t in study.get_trials()] == before
    stored = storage.get_trial(storage.create_new_trial(study._study_id))
    suggest(made, study, stored, 16, {})
    assert storage.get_trial(stored._trial_id).system_attrs == {}


def test_tpe_suggests_alike_for_a_stored_and_an_unstored_trial() -> None:
    made = spec("tpe")
    study = optuna.create_study()
    history(study, made, 20)
    unstored = suggest(made, study, provisional(20), 20, {})
    stored = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    assert suggest(made, study, stored, 20, {}) == unstored


def test_a_suggestion_leaves_the_asking_trial_unchanged() -> None:
    made = spec("tpe")
    study = optuna.create_study()
    history(study, made, 20)
    trial = provisional(20)
    suggest(made, study, trial, 20, {})
    assert (trial.number, trial.params, trial.system_attrs) == (20, {}, {})


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_sampler_sees_trials_that_finished_since_the_last_suggestion(name: str) -> None:
    made = spec(name)
    study = optuna.create_study()
    history(study, made, 12)
    study.get_trials()
    study._get_trials(use_cache=True)
    before = suggest(made, study, provisional(12), 12, {})
    history(study, made, 30, offset=9000)
    assert suggest(made, study, provisional(42), 12, {}) != before


def test_a_running_trial_with_the_provisional_number_is_still_avoided() -> None:
    """Another runner may have stored its trial under the number this one expected to get."""
    made = spec("tpe", {"x": {"type": "float", "low": 0, "high": 1}})
    study = optuna.create_study()
    dists: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    for index in range(30):
        x = (index * 7 % 30) / 30
        study.add_trial(create_trial(params={"x": x}, distributions=dists, value=(x - 0.3) ** 2))
    alone = [suggest(made, study, provisional(30), ticket, {})["x"] for ticket in range(12)]
    for x in (0.29, 0.3, 0.31):
        trial_id = study._storage.create_new_trial(study._study_id)
        study._storage.set_trial_param(trial_id, "x", x, dists["x"])
    beside = [suggest(made, study, provisional(30), ticket, {})["x"] for ticket in range(12)]
    unique = [suggest(made, study, provisional(999), ticket, {})["x"] for ticket in range(12)]
    assert beside == unique, "a provisional number hides no running trial"
    assert beside != alone, "running trials count (constant liar)"


def best_of(seed: int, trials: int) -> float:
    made = spec({"name": "tpe", "seed": seed}, QUICK)
    study = optuna.create_study()
    run(made, study, trials, quick_loss)
    return study.best_value


def best_of_optunas_own_loop(seed: int, trials: int) -> float:
    def objective(trial: optuna.Trial) -> float:
        point: dict[str, Any] = {
            "x": trial.suggest_float("x", -5, 5),
            "y": trial.suggest_float("y", 1e-4, 1, log=True),
            "kind": trial.suggest_categorical("kind", ["a", "b", "c"]),
        }
        if point["kind"] == "b":
            point["m"] = trial.suggest_float("m", 0, 1)
        return quick_loss(point)

    study = optuna.create_study(sampler=TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return study.best_value


QUICK: dict[str, Any] = {
    "x": {"type": "float", "low": -5, "high": 5},
    "y": {"type": "float", "low": 1e-4, "high": 1, "log": True},
    "kind": {"type": "categorical", "choices": ["a", "b", "c"]},
    "m": {"type": "float", "low": 0, "high": 1, "when": {"kind": "b"}},
}


def quick_loss(point: dict[str, Any]) -> float:
    kind = {"a": 2.0, "b": 0.0, "c": 1.0}[point["kind"]]
    inner = abs(point["m"] - 0.7) if "m" in point else 0.0
    return float((point["x"] - 1) ** 2 + (math.log10(point["y"]) + 2) ** 2 + kind + inner)


def test_tpe_finds_as_good_points_as_optunas_own_loop_and_better_than_random() -> None:
    """Medians over seeds (measured over 160 seeds of 40 trials: ours 0.30, Optuna's 0.31)."""
    made = spec("random", QUICK)
    ours = statistics.median(best_of(seed, 40) for seed in range(10))
    plain = statistics.median(best_of_optunas_own_loop(seed, 40) for seed in range(10))
    chance = statistics.median(
        min(quick_loss(random_point(made, seed, ticket)) for ticket in range(40)) for seed in range(10)
    )
    assert ours < 1.6 * plain
    assert ours < 0.75 * chance


# The genetic ones


@pytest.mark.parametrize("name", GENETIC)
def test_they_go_through_generations(name: str) -> None:
    made = spec({"name": name, "population_size": 5})
    study = optuna.create_study()
    run(made, study, 23)
    generations = [
        trial.system_attrs[f"NSGA{'I' * int(name[-1])}Sampler:generation"] for trial in study.trials
    ]
    assert generations == sorted(generations)
    assert generations[-1] == 4


@pytest.mark.parametrize("crossover", ["uniform", "blxalpha", "spx", "sbx", "vsbx", "undx"])
def test_every_crossover_works(crossover: str) -> None:
    made = spec(
        {"name": "nsga2", "population_size": 4, "crossover": crossover, "mutation": "polynomial"}, NUMBERS
    )
    study = optuna.create_study()
    run(made, study, 14, sphere)
    assert len(study.trials) == 14


# Which samplers need their trial in the database


@pytest.mark.parametrize("name", EVERY)
def test_a_sampler_that_writes_to_its_trial_says_so(name: str) -> None:
    """Run on real trials: exactly the samplers that need a stored trial leave attributes on it."""
    made = spec({"name": name} | ({"n_startup_trials": 2} if name in ("tpe", "gp") else {}))
    study = optuna.create_study()
    history(study, made, 4)
    trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    suggest(made, study, trial, 4, {})
    written = study._storage.get_trial(trial._trial_id).system_attrs
    assert bool(written) == needs_stored_trial(made)


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"name": "tpe", "n_startup_trials": 7}, lambda s: s._n_startup_trials == 7),
        ({"name": "tpe", "n_ei_candidates": 50}, lambda s: s._n_ei_candidates == 50),
        ({"name": "tpe", "multivariate": False}, lambda s: s._multivariate is False),
        ({"name": "tpe", "group": True}, lambda s: s._group),
        ({"name": "tpe", "constant_liar": False}, lambda s: not s._constant_liar),
        ({"name": "gp", "n_startup_trials": 3}, lambda s: s._n_startup_trials == 3),
        ({"name": "gp", "deterministic_objective": True}, lambda s: s._deterministic),
        ({"name": "cmaes", "popsize": 9}, lambda s: s._popsize == 9),
        ({"name": "cmaes", "consider_pruned_trials": True}, lambda s: s._consider_pruned_trials),
        ({"name": "nsga2", "population_size": 8}, lambda s: s.population_size == 8),
        ({"name": "nsga3", "population_size": 8}, lambda s: s.population_size == 8),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_samplers_options_arrive(options: dict[str, Any], check: Callable[[Any], bool]) -> None:
    assert check(make_sampler(spec(options), 0))


def late_distance(renew: Callable[[optuna.Study], optuna.Study]) -> float:
    """Distance of the last trials from the optimum (0 in [-10, 10]) when the objective suggests."""
    made = spec("tpe", {})
    study = optuna.create_study()
    for ticket in range(50):
        study = renew(study)
        study.sampler = make_sampler(made, ticket)
        trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id))
        x = trial.suggest_float("x", -10, 10)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [x * x])
    return statistics.median(abs(trial.params["x"]) for trial in study.trials[-25:])


def test_a_study_that_is_used_again_must_be_uncached_for_the_sampler_to_learn() -> None:
    assert late_distance(lambda study: through(study, study._storage)) < 3
    assert late_distance(lambda study: study) > 4, "the control: the first list of trials is kept for ever"
