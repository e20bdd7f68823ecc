"""CMA-ES replayed from what is stored: the steps of Optuna's own, and nothing that is unpickled."""

from __future__ import annotations

import pickle
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import TrialState

from hpo.search.cmaes import ReplayedCmaEsSampler
from hpo.search.samplers import TicketSampler, make_sampler, suggest
from hpo.search.space import distribution, random_point
from tests.support.sampling import NUMBERS, run, spec, sphere


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestReplayedCmaEsKeepsOptunasContract(BasicSamplerTestCase):
    """Optuna's published suite for samplers."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ReplayedCmaEsSampler(n_startup_trials=0, warn_independent_sampling=False)


@pytest.mark.parametrize(
    "options", [{}, {"with_margin": True}, {"use_separable_cma": True}, {"lr_adapt": True}]
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_replayed_cmaes_makes_the_steps_of_optunas(options: dict[str, bool]) -> None:
    """Trial by trial, where both draw the same seed for a trial whatever they drew before."""
    made = spec("cmaes", NUMBERS)
    dists = {name: distribution(parameter) for name, parameter in made.space.items()}

    def found(kind: type[CmaEsSampler]) -> list[dict[str, Any]]:
        study = optuna.create_study()
        for ticket in range(40):
            study.sampler = kind(warn_independent_sampling=False, seed=1, **options)
            study.sampler._cma_rng = SimpleNamespace(rng=SimpleNamespace(randint=lambda low, high: 77))
            study.sampler._independent_sampler = TicketSampler(0, ticket)
            trial = study.ask(dists)
            study.tell(trial, sphere(trial.params))
        return [trial.params for trial in study.trials]

    assert found(ReplayedCmaEsSampler) == [pytest.approx(params, rel=1e-9) for params in found(CmaEsSampler)]


def test_cmaes_closes_in_on_the_optimum() -> None:
    study = optuna.create_study()
    run(spec("cmaes", NUMBERS), study, 80, sphere)
    assert study.best_value < 0.1
    made = spec("random", NUMBERS)
    assert statistics.median(sphere(random_point(made, 0, ticket)) for ticket in range(80)) > 5


def test_cmaes_unpickles_nothing_from_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    made = spec("cmaes", NUMBERS)
    study = optuna.create_study()
    run(made, study, 12, sphere)
    bait = pickle.dumps(print).hex()
    trial_id = study._storage.create_new_trial(study._study_id)
    study._storage.set_trial_system_attr(trial_id, "cma:optimizer:0", bait)
    for name, dist in ((name, distribution(parameter)) for name, parameter in made.space.items()):
        study._storage.set_trial_param(trial_id, name, 1.0, dist)
    study._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])

    def caught(*args: Any) -> Any:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", caught)
    asking = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    assert suggest(made, study, asking, 13, {})
    with pytest.raises(AssertionError, match="unpickled"):  # the control: Optuna's own does
        CmaEsSampler(seed=0).sample_relative(
            study, asking, CmaEsSampler().infer_relative_search_space(study, asking)
        )


def test_cmaes_stores_its_generation_and_no_state() -> None:
    study = optuna.create_study()
    run(spec("cmaes", NUMBERS), study, 30, sphere)
    keys = {key for trial in study.trials for key in trial.system_attrs}
    assert keys == {"cma:generation"}
    assert study.trials[-1].system_attrs["cma:generation"] >= 3


def test_a_straggler_changes_nothing_that_cmaes_has_learnt() -> None:
    made = spec("cmaes", NUMBERS)
    study = optuna.create_study()
    run(made, study, 1, sphere)
    late = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    dists = {name: distribution(parameter) for name, parameter in made.space.items()}
    for name, value in suggest(made, study, late, 1, {}).items():
        study._storage.set_trial_param(late._trial_id, name, dists[name].to_internal_repr(value), dists[name])
    run(made, study, 29, sphere)

    def ask() -> dict[str, Any]:
        space = make_sampler(made, 99).infer_relative_search_space(study, late)
        asking = study._storage.get_trial(late._trial_id)
        return make_sampler(made, 99).sample_relative(study, asking, space)

    trial_id = late._trial_id
    late = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    before = ask()
    study._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1e9])
    assert ask() == before
