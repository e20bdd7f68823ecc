"""What an objective reads of its study, and what it may do to it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy
import optuna
import pytest

from hpo.errors import SpecError
from hpo.runner.study import NotAnObjectivesError
from storage.database.engine import Database
from storage.database.records import StudyRow, StudyState
from storage.queue import events
from tests.support.brokered import stored
from tests.support.runner import BrokeredRunner
from tests.support.shared import attempts_of, state_of, ticket_states


def test_the_study_reads_as_optunas(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    found: list[SimpleNamespace] = []

    def objective(trial: Any) -> float:
        if trial.number == 1:
            trial.set_user_attr("why", "it is worse")
            trial.report(0.2, 1)
            raise optuna.TrialPruned
        if trial.number == 2:
            here = trial.study
            first = here.trials
            trial.set_user_attr("own", [1, 2])
            trial.report(0.7, 1)
            trial.suggest_int("more", 1, 9)
            found.append(
                SimpleNamespace(
                    name=here.study_name,
                    numbers=[one.number for one in first],
                    states=[one.state.name for one in here.trials],
                    best=(here.best_trial.number, here.best_value, here.best_params),
                    direction=here.direction.name,
                    complete=[
                        one.number for one in here.get_trials(states=[optuna.trial.TrialState.COMPLETE])
                    ],
                    attrs=here.trials[1].user_attrs,
                    reports=here.trials[1].intermediate_values,
                    own=here.trials[2],
                    study_attrs=here.user_attrs,
                    frame=len(here.trials_dataframe()),
                )
            )
        trial.study.set_user_attr("newest", trial.number)
        return float(trial.number)

    doing(objective)
    assert [runner.run_one().state for _ in range(3)] == ["complete", "pruned", "complete"]
    (read,) = found
    expected = stored(database, study)
    assert read.name == "study"
    assert read.numbers == [0, 1, 2]
    assert read.states == ["COMPLETE", "PRUNED", "RUNNING"]
    assert read.best == (0, 0.0, expected.params)
    assert read.direction == "MAXIMIZE"
    assert read.complete == [0]
    assert (read.attrs, read.reports) == ({"why": "it is worse"}, {1: 0.2})
    assert read.own.user_attrs == {"own": [1, 2]}
    assert read.own.intermediate_values == {1: 0.7}
    assert set(read.own.params) == {"x", "more"}
    assert read.study_attrs == {"newest": 0}
    assert read.frame == 3


def test_the_study_is_kept_up_with_what_others_finish_meanwhile(
    study: StudyRow, open_runner: Any, doing: Any
) -> None:
    one, other = open_runner(study), open_runner(study)
    counts: list[int] = []

    def objective(trial: Any) -> float:
        if trial.number == 0:
            for _ in range(3):
                counts.append(sum(found.state.is_finished() for found in trial.study.trials))
                other.run_one()
            counts.append(sum(found.state.is_finished() for found in trial.study.trials))
            assert trial.study.best_value == 3.0
        return float(trial.number)

    doing(objective)
    ended = one.run_one()
    assert ended.values == (0.0,), ended.error
    assert counts == [0, 1, 2, 3]


def test_an_objective_that_stops_its_study_ends_it_as_hpo_stop_does(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    states: list[StudyState] = []

    def objective(trial: Any) -> float:
        trial.study.stop()
        trial.study.stop()
        states.append(state_of(database, study))
        return 1.0

    doing(objective)
    assert runner.run_one().values == (1.0,), "what runs is finished"
    assert states == [StudyState.STOPPING]
    assert state_of(database, study) is StudyState.STOPPED
    told = database.read(lambda connection: events.of_study(connection, study.name))
    happened = [("stop", "trial 0"), ("best", "hpo"), ("end", "hpo")]
    assert [(one.what, one.who) for one in told[1:]] == happened
    runner.order()
    assert runner.task() is None


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::optuna.exceptions.ExperimentalWarning")
def test_a_terminator_reads_what_it_needs_and_its_stop_counts(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    from optuna import terminator

    ends = terminator.TerminatorCallback(
        terminator.Terminator(
            terminator.BestValueStagnationEvaluator(max_stagnation_trials=1),
            terminator.StaticErrorEvaluator(0),
            min_n_trials=2,
        )
    )
    errors: list[float] = []

    def objective(trial: Any) -> float:
        terminator.report_cross_validation_scores(trial, [1.0, 2.0, 3.0])
        ends(trial.study, trial)
        if trial.number > 0:
            evaluator = terminator.CrossValidationErrorEvaluator()
            errors.append(evaluator.evaluate(trial.study.trials, trial.study.direction))
        return -float(trial.number)

    doing(objective)
    while state_of(database, study) is StudyState.RUNNING:
        runner.run_one()
    assert state_of(database, study) is StudyState.STOPPED
    assert len(errors) == 3, "the fourth trial found that the second and third were no better"
    assert errors[0] > 0


def test_a_point_that_an_objective_enqueues_is_the_next_tickets(
    study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    seen: list[float] = []

    def objective(trial: Any) -> float:
        seen.append(trial.params["x"])
        if trial.number == 0:
            trial.study.enqueue_trial({"x": 0.25})
            trial.study.enqueue_trial({"x": numpy.float64(0.75)})
            trial.study.enqueue_trial(trial.params, skip_if_exists=True)
        return 1.0

    doing(objective)
    for _ in range(3):
        runner.run_one()
    assert seen[1:] == [0.25, 0.75]


def test_a_point_that_cannot_be_enqueued_is_the_objectives_error(
    study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    errors: list[Exception] = []

    def objective(trial: Any) -> float:
        for point in ({"x": 99.0}, {"y": 0.5}, *({"x": i / 10} for i in range(9))):
            try:
                trial.study.enqueue_trial(point)
            except Exception as error:
                errors.append(error)
        return 1.0

    doing(objective)
    ended = runner.run_one()
    assert ended.values == (1.0,), ended.error
    assert [type(error) for error in errors] == [SpecError] * 2 + [ValueError] * 4
    assert "hpo extend" in str(errors[-1])


NOT_AN_OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "ask": lambda trial: trial.study.ask(),
    "tell": lambda trial: trial.study.tell(0, 999.0),
    "add_trial": lambda trial: trial.study.add_trial(optuna.trial.create_trial(value=999.0)),
    "add_trials": lambda trial: trial.study.add_trials([optuna.trial.create_trial(value=999.0)]),
    "optimize": lambda trial: trial.study.optimize(lambda _: 999.0, n_trials=3),
    "delete_study": lambda trial: optuna.delete_study(study_name="study", storage=trial.storage),
    "create_study": lambda trial: optuna.create_study(study_name="mine", storage=trial.storage),
    "create_new_trial": lambda trial: trial.storage.create_new_trial(trial.study._study_id),
    "a study of its own": lambda trial: optuna.load_study(study_name="study", storage=trial.storage).ask(),
    "its own end": lambda trial: trial.storage.set_trial_state_values(
        trial._trial_id, optuna.trial.TrialState.COMPLETE, [999.0]
    ),
    "another trial": lambda trial: trial.storage.set_trial_user_attr(trial._trial_id + 1, "k", 1),
}


@pytest.mark.parametrize("what", NOT_AN_OBJECTIVES)
def test_what_is_the_services_to_do_ends_the_attempt_as_failed_once(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any, what: str
) -> None:
    """9,096 repetitions of one attempt were counted before."""
    tries: list[str] = []

    def objective(trial: Any) -> float:
        for _ in range(100):
            tries.append(what)
            try:
                NOT_AN_OBJECTIVES[what](trial)
            except Exception:
                continue
        return 1.0

    doing(objective)
    ended = runner.run_one()
    assert (ended.state, len(tries)) == ("failed", 1)
    assert "an objective may not" in str(ended.error)
    assert "Traceback" not in str(ended.error)
    assert attempts_of(database, ended.lease) == ["failed"]
    assert ticket_states(database, study) == ["failed"] + ["queued"] * 5
    assert len(database.rdb.get_all_trials(study.optuna_study_id)) == 1
    assert issubclass(NotAnObjectivesError, BaseException)
