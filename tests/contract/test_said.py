"""What an objective may say: numbers, errors, files, constraints, names that nobody declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import optuna
import pytest
import sqlalchemy as sa
import torch

from hpo.studies.reading import history
from hpo.worker.study import ServedStudy
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.database.tables import attempt
from tests.support.brokered import stored
from tests.support.runner import BrokeredRunner
from tests.support.shared import attempts_of


def test_numbers_of_numpy_and_torch_are_taken_wherever_a_number_is(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    chosen: list[Any] = []
    attributes = {
        "float32": (numpy.float32(0.5), 0.5),
        "int64": (numpy.int64(3), 3),
        "bool": (numpy.bool_(True), True),
        "array": (numpy.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        "tensor": (torch.tensor(0.25), 0.25),
        "tensors": (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        "parameter": (torch.nn.Parameter(torch.ones(2)), [1.0, 1.0]),
        "inside": ({"a": [numpy.float64(1.5), torch.tensor(2)]}, {"a": [1.5, 2]}),
        "path": (Path("a") / "b", "a/b"),
    }

    def objective(trial: Any) -> Any:
        for name, (given, _) in attributes.items():
            trial.set_user_attr(name, given)
            trial.study.set_user_attr(name, given)
        layers = [numpy.int64(1), numpy.int64(2), numpy.int64(4)]
        chosen.append(trial.suggest_categorical("layers", layers))
        chosen.append(trial.suggest_categorical("one", [numpy.float32(0.5)]))
        chosen.append(trial.suggest_float("lr", numpy.float32(0.25), numpy.float64(0.5)))
        chosen.append(trial.suggest_int("width", numpy.int64(1), torch.tensor(8).item()))
        trial.report(torch.tensor(0.5), numpy.int64(1))
        trial.log(loss=torch.tensor(2.0), accuracy=numpy.float32(0.25))
        trial.set_constraint("c", numpy.float32(-1.0))
        return numpy.float32(0.75)

    doing(objective)
    ended = runner.run_one()
    assert ended.values == (0.75,), ended.error
    trial = stored(database, study)
    expected = {name: value for name, (_, value) in attributes.items()}
    assert trial.user_attrs == expected
    assert database.rdb.get_study_user_attrs(study.optuna_study_id) == expected
    assert chosen == [trial.params[name] for name in ("layers", "one", "lr", "width")]
    assert trial.intermediate_values == {1: 0.5}


def test_what_is_no_json_is_refused_where_it_was_said(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    errors: list[Exception] = []

    def objective(trial: Any) -> float:
        for value in (object(), {1, 2}, lambda: 0, 1j):
            try:
                trial.set_user_attr("k", value)
            except TypeError as error:
                errors.append(error)
        trial.set_user_attr("ok", 1)
        return 1.0

    doing(objective)
    assert runner.run_one().values == (1.0,)
    assert len(errors) == 4
    assert stored(database, study).user_attrs == {"ok": 1}


@pytest.mark.parametrize(
    "text",
    ["\udc80", "nul \0 inside", "\N{SNOWMAN}" * 10_000, "\N{GRINNING FACE}"],
    ids=["half a character", "nul", "long", "beyond"],
)
def test_an_error_in_any_characters_is_recorded(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any, text: str
) -> None:
    """Python names a file it cannot decode with half characters, which no database takes."""

    def objective(trial: Any) -> float:
        raise ValueError(f"boom {text}")

    doing(objective)
    ended = runner.run_one()
    assert ended.state == "failed"
    assert attempts_of(database, ended.lease) == ["failed"]
    (error,) = database.read(lambda c: c.scalars(sa.select(attempt.c.error)).all())
    assert "ValueError: boom" in error


def test_a_value_that_the_database_does_not_take_fails_its_trial_with_a_sentence(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    def objective(trial: Any) -> float:
        if trial.number == 0:
            trial.report(0.5, 10**30)
            trial.should_prune()
        return 1.0

    doing(objective)
    ended = runner.run_one()
    assert ended.state == "failed"
    assert "the database does not take this" in str(ended.error)
    assert runner.run_one().values == (1.0,), "the next trial is not harmed"


def test_optunas_artifacts_belong_to_the_trial(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "optuna-artifacts"
    folder.mkdir()
    store = optuna.artifacts.FileSystemArtifactStore(folder)
    (tmp_path / "plot.txt").write_text("a plot")

    def objective(trial: Any) -> float:
        optuna.artifacts.upload_artifact(
            artifact_store=store, file_path=str(tmp_path / "plot.txt"), study_or_trial=trial
        )
        optuna.artifacts.upload_artifact(
            artifact_store=store, file_path=str(tmp_path / "plot.txt"), study_or_trial=trial.study
        )
        return 1.0

    doing(objective)
    ended = runner.run_one()
    assert ended.values == (1.0,), ended.error
    whole = optuna.load_study(study_name="study", storage=database.rdb)
    for owner in (stored(database, study), whole):
        (meta,) = optuna.artifacts.get_all_artifact_meta(owner, storage=database.rdb)
        assert meta.filename == "plot.txt"
        with store.open_reader(meta.artifact_id) as file:
            assert file.read() == b"a plot"


def test_constraints_are_stored_and_an_infeasible_trial_is_not_the_best(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    best: list[int] = []

    def objective(trial: Any) -> float:
        trial.set_constraint("memory", 9.0)
        trial.report(0.5, 1)
        trial.set_constraint("memory", 1.0 if trial.number == 1 else -numpy.inf)
        assert trial.constraints == {"memory": 1.0 if trial.number == 1 else -numpy.inf}, "the later one"
        if trial.number == 2:
            best.append(trial.study.best_trial.number)
        if trial.number == 3:
            raise optuna.TrialPruned
        return float(trial.number)

    doing(objective)
    for _ in range(4):
        runner.run_one()
    kept = {"memory": -numpy.inf}
    found = [stored(database, study, number).constraints for number in range(4)]
    assert found == [kept, {"memory": 1.0}, kept, kept]
    assert best == [0]
    winner = history(database, study.name).best
    assert winner is not None
    assert winner.number == 2


@pytest.mark.parametrize(("value", "why"), [(numpy.nan, "constraint c is NaN"), ("small", "needs a number")])
def test_a_constraint_that_is_no_number_fails_its_trial(
    runner: BrokeredRunner, doing: Any, value: Any, why: str
) -> None:
    doing(lambda trial: trial.set_constraint("c", value) or 1.0)
    ended = runner.run_one()
    assert ended.state == "failed"
    assert why in str(ended.error)


def test_constraints_of_folds_look_at_the_epoch_at_which_each_counts(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """What `training` says of it goes before what was logged of any one epoch, which stands for the rest."""
    runner = open_runner(make_study(constraints={"loss": "<= 0.5", "lr": "<= 0.1"}))

    def objective(trial: Any) -> float:
        for epoch, lr in enumerate((0.1, 0.3), 1):
            trial.log(loss=0.9, lr=lr)
            trial.report(1.0, epoch)
        trial.set_user_attr("training", {"counted_epoch": 1, "counted": {"loss": 0.4}})
        return 1.0

    doing(objective)
    runner.run_one()
    assert not history(database, "study").trials[0].broken


def test_the_study_files_constraints_are_kept_by_metrics_at_the_epoch_that_counts(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """The last epoch that reported the result; a size that was logged once counts all the time."""
    study = make_study(constraints={"loss": "<=0.5", "size": ">= 1e1"}, budget={"trials": 6})
    runner = open_runner(study)

    def objective(trial: Any) -> float:
        worse = (0.9, 0.4, 0.9)
        if trial.number != 4:
            trial.log(size=9.0 if trial.number == 3 else 10.0)
        for epoch, value in enumerate((1.0, 3.0, 2.0), 1):
            loss = worse[epoch - 1] if trial.number == 0 else 0.5
            if (trial.number, epoch) != (5, 2):
                trial.log(loss=loss)
            trial.report(value, epoch)
            if trial.number == 1 and epoch == 2:
                raise optuna.TrialPruned
        if trial.number == 2:
            trial.log(step=2, loss=numpy.nan)
        trial.set_constraint("mine", -1.0)
        return 3.0

    doing(objective)
    for _ in range(6):
        runner.run_one()
    found = history(database, study.name)
    assert [trial.broken for trial in found.trials] == [(), (), ("loss",), ("size",), ("size",), ()]
    assert found.trials[0].constraints == {"loss": pytest.approx(-0.1), "size": 0.0, "mine": -1.0}
    assert found.trials[4].constraints["size"] == numpy.inf, "it was never logged"
    assert stored(database, study, 3).constraints == {"mine": -1.0, "loss": 0.0, "size": 1.0}
    assert [winner.number for winner in found.winners] == [0]


def test_with_several_directions_what_was_logged_last_counts(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    study = make_study(
        direction=None, directions=["minimize", "maximize"], pruner=None, constraints={"loss": "<= 0.5"}
    )
    runner = open_runner(study)

    def objective(trial: Any) -> tuple[float, float]:
        for step, loss in enumerate((0.9, 0.9, 0.1) if trial.number else (0.1, 0.1, 0.9)):
            trial.log(step=step, loss=loss)
        return 1.0, 1.0

    doing(objective)
    for _ in range(2):
        runner.run_one()
    assert [winner.number for winner in history(database, study.name).winners] == [1]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_samplers_learn_from_trials_that_have_different_constraints(
    database: Database, make_study: Any, open_runner: Any, doing: Any, sampler: str
) -> None:
    """Optuna's GP refuses such trials; ours is shown the border where one says nothing."""
    options = {"population_size": 2} if sampler == "nsga2" else {"n_startup_trials": 2}
    study = make_study(sampler={"name": sampler, **options}, pruner=None)
    runner = open_runner(study)

    def objective(trial: Any) -> float:
        for name in ("abc" if trial.number % 2 else "cb")[: trial.number]:
            trial.set_constraint(name, trial.params["x"] - 0.5 if name != "c" else numpy.inf)
        return float(trial.params["x"])

    doing(objective)
    for _ in range(6):
        assert runner.run_one().state == "complete"


def test_an_infinite_result_is_one_and_no_fault(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    """It comes last, whichever way it points."""
    values = (-numpy.inf, 1.0, numpy.inf)

    def objective(trial: Any) -> float:
        trial.report(numpy.inf, 1)
        return values[trial.number]

    doing(objective)
    bests = []
    for _ in range(3):
        assert runner.run_one().state == "complete"
        bests.append(history(database, study.name).best)
    assert [best and best.number for best in bests] == [None, 1, 1]
    assert [trial.values for trial in history(database, study.name).trials] == [(v,) for v in values]
    assert stored(database, study).intermediate_values == {1: numpy.inf}


def test_a_parameter_that_nobody_declared_is_chosen_once_and_stays(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    study = make_study(sampler={"name": "tpe", "seed": 0}, space=None)
    runner = open_runner(study)
    chosen: list[Any] = []

    def objective(trial: Any) -> float:
        values = [trial.suggest_float("lr", 1e-4, 1, log=True) for _ in range(2)]
        depth = trial.suggest_int("depth", 1, 8)
        kind = trial.suggest_categorical("kind", ["a", "b", None])
        assert values[0] == values[1]
        chosen.append({"lr": values[0], "depth": depth, "kind": kind})
        return values[0] * depth

    doing(objective)
    for _ in range(3):
        ended = runner.run_one()
        assert ended.state == "complete", ended.error
    assert [stored(database, study, number).params for number in range(3)] == chosen


class PeculiarError(ValueError):
    """Cannot be read from a pickle, nor by a process that has not imported it."""

    def __init__(self, matrix: str, number: int) -> None:
        super().__init__(f"{matrix} {number}")


@pytest.mark.parametrize("error", [ArithmeticError("no such matrix"), PeculiarError("no such matrix", 1)])
def test_an_error_of_the_samplers_is_the_objectives_and_the_broker_goes_on(
    make_study: Any, open_runner: Any, doing: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(sampler={"name": "tpe", "seed": 0}, space=None)
    runner = open_runner(study)
    suggested = ServedStudy.suggested_one

    def broken(self: ServedStudy, held: Any, name: str, *more: Any) -> float:
        if name == "bad":
            raise error
        return suggested(self, held, name, *more)

    monkeypatch.setattr(ServedStudy, "suggested_one", broken)
    doing(lambda trial: trial.suggest_float("bad" if trial.number == 0 else "good", 0, 1))
    ended = runner.run_one()
    assert ended.state == "failed"
    assert "no such matrix" in str(ended.error)
    assert runner.run_one().state == "complete"
