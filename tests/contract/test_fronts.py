"""Several directions prune: trials are ranked at rungs by fronts, and Optuna's tables know nothing of it."""

from __future__ import annotations

from typing import Any

import numpy
import optuna
import pytest

from storage.database.engine import Database
from storage.database.records import StudyState
from storage.queue import studies
from tests.contract.test_promotion import PROMOTE, holds, run_all
from tests.contract.test_rungs import stored
from tests.support.shared import lose, state_of, ticket_states

STOP = {name: value for name, value in PROMOTE.items() if name != "mode"}
SEVERAL = {"direction": None, "directions": ["maximize", "minimize"]}
# Value and cost of nine trials: the first three are the front.
POINTS = [(0.9, 9.0), (0.6, 3.0), (0.1, 1.0), *((0.5 - n / 100, 4.0 + n) for n in range(6))]


def climbing(trained: list[tuple[int, int]], dies: dict[tuple[int, int], Any] | None = None) -> Any:
    """Trial n is worth `POINTS[n]` at each epoch; `dies`: what comes after some of them."""

    def objective(trial: Any) -> tuple[float, float]:
        begun = trial.checkpoint.load()
        for epoch in range(1 if begun is None else begun["epoch"] + 1, 10):
            trained.append((trial.number, epoch))
            trial.report(POINTS[trial.number], epoch)
            trial.checkpoint.save({"epoch": epoch}, epoch)
            (dies or {}).pop((trial.number, epoch), lambda: None)()
            if trial.should_prune():
                raise optuna.TrialPruned
        return POINTS[trial.number]

    return objective


def longest(trained: list[tuple[int, int]]) -> list[int]:
    """The last epoch of each trial."""
    return [max(epoch for number, epoch in trained if number == one) for one in range(len(POINTS))]


def test_the_front_is_promoted_and_each_epoch_is_trained_once(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """Also where a worker is lost in between. What ends parked has no value, nor have Optuna's tables one."""
    study = make_study(**SEVERAL, sampler="tpe", pruner=PROMOTE, budget={"trials": 9})
    trained: list[tuple[int, int]] = []
    one, other = open_runner(study), open_runner(study)

    def fall() -> None:
        (held,) = (runner.desk.held for runner in (one, other) if not runner.desk.held.is_over)
        lose(database, held.lease)

    doing(climbing(trained, {(0, 2): fall}))
    ends = run_all(one, other)
    assert sorted(ends) == ["complete", *["lost"] * ends.count("lost"), *["parked"] * 12]
    assert sorted(trained) == sorted([*set(trained), (0, 3)]), "the lost attempt had begun this epoch"
    assert longest(trained) == [9, 3, 3] + [1] * 6
    assert state_of(database, study) is StudyState.FINISHED
    assert [rung for _, rung, _, _ in stored(database, study)].count(0) == 9
    holds(database, study)
    theirs = optuna.load_study(study_name=study.name, storage=database.rdb)
    assert not any(trial.intermediate_values for trial in theirs.trials)
    assert [trial.values is None for trial in theirs.trials].count(True) == 8
    theirs.sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)
    theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)})


def test_a_budget_of_epochs_counts_each_once(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """They are metrics here, which has no say in how many they are."""
    study = make_study(**SEVERAL, pruner=PROMOTE, budget={"epochs": 21})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained))
    run_all(open_runner(study), open_runner(study))
    row = database.read(lambda c: studies.get(c, study.name))
    assert (row.state, row.ended_why) == (StudyState.FINISHED, "budget of epochs spent")
    assert len(trained) == len(set(trained)) == 21
    assert longest(trained) == [9, 3, 3] + [1] * 6
    holds(database, study)


def test_patience_ends_when_the_front_stays_as_it_is(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """Trials 0, 1 and 2 are on it, each beside the one before; then two are behind it."""
    study = make_study(**SEVERAL, pruner="none", budget={"patience": 2})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained))
    assert run_all(open_runner(study)) == ["complete"] * 5
    row = database.read(lambda c: studies.get(c, study.name))
    assert row.ended_why == "no better result for as many trials as its patience"
    holds(database, study)


def test_who_is_behind_the_front_is_pruned_for_good(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    study = make_study(**SEVERAL, pruner=STOP, budget={"trials": 9})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained))
    assert sorted(run_all(open_runner(study), open_runner(study))) == ["complete"] * 3 + ["pruned"] * 6
    assert longest(trained) == [9, 9, 9] + [1] * 6
    assert set(ticket_states(database, study)) == {"complete", "pruned"}
    holds(database, study)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True, scope="module")
def test_a_report_has_a_number_for_each_direction(make_study: Any, open_runner: Any, doing: Any) -> None:
    """Arrays are taken as well; one alone is refused as in Optuna; NaN has diverged."""
    study = make_study(**SEVERAL, pruner=STOP, budget={"trials": 3})
    runner = open_runner(study)
    errors: list[str] = []

    def objective(trial: Any) -> Any:
        with pytest.raises(NotImplementedError, match="takes 2 numbers") as told:
            trial.report(0.5, 1)
        errors.append(str(told.value))
        with pytest.raises(NotImplementedError, match=r"needs trial\.report"):
            trial.should_prune()
        trial.report(numpy.array([0.5, numpy.nan if trial.number else 1.0]), 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        return 0.5, 1.0

    doing(objective)
    assert [runner.run_one().state for _ in range(2)] == ["complete", "diverged"]
    assert len(errors) == 2
