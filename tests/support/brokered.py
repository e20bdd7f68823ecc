"""Trials whose objective is a function of the test, served by a worker's broker in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation
from storage.database.engine import Database, Patience
from storage.database.records import StudyRow
from tests.support.runner import BrokeredRunner
from tests.support.shared import Opener

# What the running trial does; the objective's file finds it here.
act: Callable[[Any], Any] = lambda _trial: 0.5  # noqa: E731 -- each test sets its own

OBJECTIVE = """
from tests.support import brokered

def objective(trial):
    return brokered.act(trial)
"""


@pytest.fixture
def make_study(database: Database, tmp_path: Path) -> Callable[..., StudyRow]:
    """`make_study(pruner=...)`: six random trials over one float."""

    def make(**fields: Any) -> StudyRow:
        spec = {
            "study": "study",
            "objective": "mine.py",
            "direction": "maximize",
            "sampler": "random",
            "pruner": {"name": "median", "n_startup_trials": 100},  # prunes nothing, but is asked
            "budget": {"trials": 6},
            "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
            **fields,
        }
        kept = {name: value for name, value in spec.items() if value is not None}
        settings = Settings(artifacts=(tmp_path / "artifacts").as_uri())
        return creation.create(database, parse_spec(kept), settings)

    return make


@pytest.fixture
def study(make_study: Callable[..., StudyRow]) -> StudyRow:
    return make_study()


@pytest.fixture
def open_runner(party: Opener, tmp_path: Path) -> Iterator[Any]:
    """`open_runner(study)` is one more worker with a runner; `beside` another runner: of the same worker."""
    made: list[BrokeredRunner] = []
    (tmp_path / "mine.py").write_text(OBJECTIVE)

    def make(study: StudyRow, *, beside: BrokeredRunner | None = None) -> BrokeredRunner:
        if beside is None:
            one = party(study, f"w{len(made)}")
            one.database.patience = Patience(endless=True)  # as a worker's
            made.append(BrokeredRunner(one, study, tmp_path))
        else:
            made.append(BrokeredRunner(beside.party, study, tmp_path, broker=beside.broker, runner=len(made)))
        return made[-1]

    yield make
    for one in reversed(made):
        one.close()


@pytest.fixture
def runner(open_runner: Any, study: StudyRow) -> BrokeredRunner:
    found: BrokeredRunner = open_runner(study)
    return found


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """`doing(act)`: this is what trials do from now on."""
    return lambda do: monkeypatch.setattr(sys.modules[__name__], "act", do)


def stored(database: Database, study: StudyRow, number: int = 0) -> optuna.trial.FrozenTrial:
    """The trial as the database has it now."""
    trials = database.rdb.get_all_trials(study.optuna_study_id)
    return next(trial for trial in trials if trial.number == number)
