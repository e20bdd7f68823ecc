"""Trials that ended elsewhere become a study: whole, or not at all, with a sentence for each misfit."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hpo.errors import SpecError, UserError
from hpo.settings import Settings
from hpo.spec import StudySpec, parse_spec
from hpo.studies.creation import extend, find
from hpo.studies.importing import Imported, derived_spec, import_study
from hpo.studies.reading import history
from hpo.studies.sources import read_csv, read_optuna
from storage.database.engine import Database
from storage.database.errors import BadStorageUrlError, StudyExistsError
from storage.history.audit import audit
from storage.queue import tickets
from tests.support.shared import Opener

SETTINGS = Settings(artifacts="memory://imported")
SPACE: dict[str, Any] = {
    "x": {"type": "float", "low": 0, "high": 10},
    "layers": {"type": "int", "low": 1, "high": 4},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": ["sgd"]}},
}
TABLE = """\
x,layers,optimizer,momentum,value,state
1.5,2,sgd,0.9,0.7,complete
2,3,adam,,0.9,
3,1,adam,,0.2,pruned
4,1,adam,,,failed
"""


def spec(name: str = "taken", **fields: Any) -> StudySpec:
    base = {"study": name, "objective": "m", "direction": "maximize", "budget": {"trials": 99}}
    return parse_spec({**base, "space": SPACE, **fields})


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def table(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return table


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An Optuna study of twelve trials in a SQLite file: two pruned, one failed, one still running."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{tmp_path_factory.mktemp('theirs') / 'optuna.db'}"
    study = optuna.create_study(study_name="theirs", storage=url, direction="minimize")

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 1e-3, 10, log=True)
        layers = trial.suggest_int("layers", 1, 4)
        trial.suggest_categorical("optimizer", ["sgd", "adam"])
        trial.set_user_attr("note", [trial.number])
        for step in range(3):
            trial.report(x + step if trial.number != 3 else math.nan, step)
        if trial.number in (1, 2):
            raise optuna.TrialPruned
        if trial.number == 4:
            raise ValueError("broken")
        return x * layers

    study.optimize(objective, n_trials=11, catch=ValueError)
    study.ask()
    return url


def take(database: Database, theirs: str, **fields: Any) -> Imported:
    source = read_optuna(theirs, None)
    return import_study(database, SETTINGS, derived_spec(source, None, "m")[0], source, **fields)


def test_an_optuna_study_comes_over_whole(database: Database, theirs: str) -> None:
    imported = take(database, theirs)
    assert imported.notes == ("1 trials that have not ended are left out",)
    original = optuna.load_study(study_name="theirs", storage=theirs)
    copied = optuna.load_study(study_name="theirs", storage=database.rdb)
    for mine, other in zip(copied.trials, original.trials[:11], strict=True):
        for kept in ("number", "state", "params", "distributions", "user_attrs"):
            assert getattr(mine, kept) == getattr(other, kept)
        assert str(mine.intermediate_values) == str(other.intermediate_values), "NaN too"
        assert (mine.datetime_start, mine.datetime_complete) == (
            other.datetime_start,
            other.datetime_complete,
        )
    assert copied.best_trial.number == original.best_trial.number
    found = history(database, "theirs")
    assert [trial.state for trial in found.trials].count("pruned") == 2
    assert found.winners[0].number == original.best_trial.number
    assert database.read(lambda c: audit(c, imported.row)).holds
    assert imported.row.state == "finished"
    assert set(StudySpec.model_validate(imported.row.spec).space) == {"x", "layers", "optimizer"}


def test_an_imported_study_goes_on_where_it_was(database: Database, theirs: str, party: Opener) -> None:
    row = extend(database, take(database, theirs).row, trials=2)
    assert (row.state, row.budget_trials) == ("running", 13)
    worker = party(row)
    for number in (11, 12):
        assert worker.finish_one().number == number
    found = database.read(lambda c: tickets.counts(c, row.id))
    assert (found.complete, found.pruned, found.failed, found.waiting) == (10, 2, 1, 0)
    assert database.read(lambda c: audit(c, row)).holds


def test_trials_of_several_shapes_leave_the_space_to_the_objective(
    database: Database, tmp_path: Path
) -> None:
    place = str(tmp_path / "journal.log")
    storage = JournalStorage(JournalFileBackend(place))
    study = optuna.create_study(study_name="shapes", storage=storage)
    study.optimize(lambda t: t.suggest_float("a", 0, 1) if t.number else t.suggest_float("b", 0, 1), 3)
    source = read_optuna(place, "shapes")
    made, notes = derived_spec(source, "renamed", None)
    assert made.space == {}
    assert len(notes) == 2
    assert import_study(database, SETTINGS, made, source).row.name == "renamed"
    assert history(database, "renamed").trials[0].params == study.trials[0].params


def test_a_table_comes_over_with_its_states(database: Database, write: Any) -> None:
    imported = import_study(database, SETTINGS, spec(), read_csv(write(TABLE), spec()))
    found = history(database, "taken")
    assert [(t.state, t.values, dict(t.params)) for t in found.trials] == [
        ("complete", (0.7,), {"x": 1.5, "layers": 2, "optimizer": "sgd", "momentum": 0.9}),
        ("complete", (0.9,), {"x": 2.0, "layers": 3, "optimizer": "adam"}),
        ("pruned", None, {"x": 3.0, "layers": 1, "optimizer": "adam"}),
        ("failed", None, {"x": 4.0, "layers": 1, "optimizer": "adam"}),
    ]
    assert database.read(lambda c: audit(c, imported.row)).holds
    assert imported.row.budget_trials == 4, "the budget of the study file does not count"


def test_a_table_that_optuna_or_hpo_wrote_is_read_too(write: Any) -> None:
    two = parse_spec(
        {
            "study": "s",
            "objective": "m",
            "directions": ["maximize", "minimize"],
            "budget": {"trials": 1},
            "space": {"seconds": {"type": "int", "low": 0, "high": 9}},
        }
    )
    header = "number,values_0,values_1,duration,params_seconds,user_attrs_a,state"
    text = f"{header}\n0,0.5,2,0:01,3,x,TrialState.COMPLETE\n"
    (trial,) = read_csv(write(text), two).trials
    assert (trial.values, trial.params) == ((0.5, 2.0), {"seconds": 3})


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", "must have the column value; it has none"),
        (TABLE.replace("value", "score"), "the column score is neither a parameter of taken"),
        (TABLE.replace("layers", "layer"), "did you mean 'layers'"),
        ("x,layers,optimizer,momentum\n1,1,adam,\n", "must have the column value"),
        ("x,optimizer,momentum,value\n1,adam,,1\n", "has no column for layers"),
        ("x,x,layers,optimizer,value\n", "two columns hold x"),
        (TABLE + "5,1,adam,,0.3\n", "row 6: has 5 cells, but there are 6 columns"),
        (TABLE + "5,1,adam,,high,\n", "row 6: value must be a number, got high"),
        (TABLE + "5,1,adam,,0.3,done\n", "row 6: state must be"),
        (TABLE + "5,1,adam,,,\n", "row 6: it has no value"),
        (TABLE + "5,1,adam,,nan,\n", "row 6: its value must be a finite number, got nan"),
        (TABLE + "50,1,adam,,1,\n", "row 6: x must lie between 0.0 and 10.0, got 50"),
        (TABLE + "5,1,adma,,1,\n", "row 6: optimizer must be one of"),
        (TABLE + "5,1,adam,0.5,1,\n", "row 6: momentum exists only when optimizer is"),
        (TABLE + ",1,adam,,1,\n", "row 6: it has no value for x"),
        (TABLE + "9" * 500 + ",1,adam,,1,\n", "a number of 500 characters"),
        ("\x00", "table.csv"),
    ],
)
def test_a_table_that_does_not_fit_is_told_by_its_rows(
    database: Database, write: Any, table: str, told: str
) -> None:
    with pytest.raises(UserError) as refused:
        import_study(database, SETTINGS, spec(), read_csv(write(table), spec()))
    assert told in str(refused.value)
    assert find(database, "taken") is None, "nothing was imported"


def test_what_does_not_fit_may_be_left_out(database: Database, write: Any) -> None:
    source = read_csv(write(TABLE + "50,1,adam,,1,\n"), spec())
    imported = import_study(database, SETTINGS, spec(), source, skip=True)
    assert imported.row.budget_trials == 4
    assert "row 6: x must lie between" in imported.notes[0]


def test_a_study_that_cannot_take_it_is_a_sentence(database: Database, theirs: str, tmp_path: Path) -> None:
    source = read_optuna(theirs, None)
    with pytest.raises(UserError, match="is to minimize, but the study file says maximize"):
        import_study(database, SETTINGS, spec(), source)
    with pytest.raises(UserError, match="a grid's trials are its cells"):
        import_study(database, SETTINGS, spec(sampler="grid", space={"layers": SPACE["layers"]}), source)
    take(database, theirs)
    with pytest.raises(StudyExistsError, match="a study named theirs exists already"):
        take(database, theirs)
    with pytest.raises(SpecError):
        derived_spec(source, "../up", None)


@pytest.mark.parametrize(
    ("place", "study", "told"),
    [
        ("nowhere.db", None, "there is no file"),
        ("sqlite:///nowhere.db", None, "there is no file"),
        ("mysql://host/x", None, "mysql"),
        ("text.log", None, "neither a SQLite database nor a journal"),
        ("optuna.db", "their", "did you mean 'theirs'"),
        ("empty.db", None, "holds no Optuna studies"),
    ],
)
def test_a_source_that_is_none_is_a_sentence(
    theirs: str, monkeypatch: pytest.MonkeyPatch, place: str, study: str | None, told: str
) -> None:
    monkeypatch.chdir(Path(theirs.removeprefix("sqlite:///")).parent)
    Path("text.log").write_text("hello\nworld\n")
    sqlite3.connect("empty.db").execute("CREATE TABLE IF NOT EXISTS t (a)").connection.close()
    with pytest.raises((UserError, BadStorageUrlError), match=told):
        read_optuna(place, study)
