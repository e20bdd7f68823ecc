"""How a trial came to its point is kept, told in a sentence, and can be asked again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.samplers import TicketSampler
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation, reading
from hpo.studies.why import asked_again, why
from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.database.optuna_tables import values
from storage.database.records import StudyRow
from tests.support.runner import BrokeredRunner
from tests.support.shared import Opener

OBJECTIVE = """
def objective(trial):
    x, kind = trial.config["x"], trial.config["kind"]
    if trial.number % 7 == 6:
        raise RuntimeError("now and then")
    if trial.number % 9 == 8:
        return float("nan")
    trial.report(x, 1)
    return (x - 0.3) ** 2 + (kind == "a")
"""
SPACE: dict[str, dict[str, Any]] = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    "kind": {"type": "categorical", "choices": ["a", "b"]},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """SQLite alone: the runners take turns, so no database can tell it otherwise."""
    made = f"sqlite:///{tmp_path_factory.mktemp('db') / 'hpo.db'}"
    open_database(made).close()
    return made


@pytest.fixture
def made(database: Database, tmp_path: Path) -> Any:
    """A study of this sampler, with twenty tickets."""

    def make(sampler: dict[str, Any], **more: Any) -> StudyRow:
        (tmp_path / "mine.py").write_text(OBJECTIVE)
        spec = {"study": "s", "objective": "mine.py", "direction": "minimize", "budget": {"trials": 20}}
        spec |= {"space": SPACE, "sampler": sampler, "pruner": "none", **more}
        settings = Settings(artifacts=(tmp_path / "artifacts").as_uri())
        return creation.create(database, parse_spec(spec), settings)

    return make


@pytest.fixture
def two(party: Opener, tmp_path: Path) -> Iterator[Any]:
    """Two workers that take turns: both have a trial before either is run."""
    runners: list[BrokeredRunner] = []

    def run(study: StudyRow, rounds: int) -> list[BrokeredRunner]:
        runners.extend(BrokeredRunner(party(study, name), study, tmp_path) for name in ("one", "two"))
        for _ in range(rounds):
            tasks = []
            for runner in runners:
                runner.order()
                tasks.append(runner.task())
            for runner, task in zip(runners, tasks, strict=True):
                assert task is not None
                runner.session.run(task)
        return runners

    yield run
    for runner in runners:
        runner.close()


def test_every_point_of_a_parallel_search_is_drawn_again_from_what_was_known(
    database: Database, made: Any, two: Any
) -> None:
    study = made({"name": "tpe", "seed": 0, "n_startup_trials": 4}, enqueue=[{"x": 0.5}])
    two(study, 10)
    trials = reading.history(database, "s").trials
    assert len(trials) == 20
    assert {trial.state for trial in trials} == {"complete", "failed", "diverged"}
    assert [asked_again(database, study, trial) for trial in trials] == ["the same"] * 20

    told = [database.read(lambda connection, t=trial: why(connection, study, t)) for trial in trials]
    assert told[0].startswith("Given were x; for the rest: TPE drew this point after seeing 0 finished")
    assert told[3].endswith(") and 1 running trial (2): at random, until 4 trials have finished.")
    assert re.fullmatch(
        r"TPE drew this point after seeing 18 finished \(digest [0-9a-f]{8}\), 2 of them diverged, and "
        r"1 running trial \(18\)\. It rated it [\d.]+ times as likely among the good trials as among the "
        r"others; the runner-up, kind=[ab], x=0\.\d+, [\d.]+ times\.",
        told[19],
    ), told[19]


def test_a_result_that_was_changed_since_is_noticed(database: Database, made: Any, two: Any) -> None:
    """By the digest of what the sampler knew; those who asked before it was known are as they were."""
    study = made({"name": "tpe", "seed": 0, "n_startup_trials": 2})
    two(study, 3)
    database.write(lambda c: c.execute(sa.update(values).where(values.c.trial_id == 1).values(value=9.0)))
    trials = reading.history(database, "s").trials
    assert [asked_again(database, study, one) for one in trials] == ["the same"] * 2 + ["changed"] * 4


def test_a_point_that_differs_from_what_was_known_is_noticed(database: Database, made: Any, two: Any) -> None:
    """A negative control: the same trials, of another study seed."""
    study = made({"name": "tpe", "seed": 0, "n_startup_trials": 4})
    two(study, 2)
    other = study.__class__(**{**vars(study), "spec": {**study.spec, "sampler": {"name": "tpe", "seed": 1}}})
    trials = reading.history(database, "s").trials
    assert [asked_again(database, other, trial) for trial in trials] == ["another"] * 4


def test_what_is_learnt_while_a_sampler_chooses_reaches_it_with_the_next_choice(made: Any, two: Any) -> None:
    """Else it would see two studies in one choice, and the record would be of neither."""
    (runner, _) = two(made({"name": "tpe", "seed": 0}), 1)
    served, claim = runner.desk.study, runner.claim()
    views: list[int] = []

    class Slow(TicketSampler):
        def infer_relative_search_space(
            self, study: Study, trial: FrozenTrial
        ) -> dict[str, BaseDistribution]:
            views.append(len(study.get_trials(deepcopy=False)))
            newer = create_trial(state=TrialState.RUNNING)
            newer.number, newer._trial_id = 99, 9999
            served.known.put(newer)
            views.append(len(study.get_trials(deepcopy=False)))
            return {}

    served._sampler = lambda ticket: Slow(0, ticket)
    _, saw = served.suggested(claim, None, lambda _of, _key, _json: None)
    assert views[0] == views[1] == saw["finished"] + len(saw["running"])


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("random", "Random search drew this point from the study's seed and its ticket, 0;"),
        ("grid", "It is cell 0 of the grid, and depends on no other trial."),
    ],
)
def test_a_point_that_depends_on_no_other_trial_says_so(
    database: Database, made: Any, two: Any, sampler: str, said: str
) -> None:
    space = {"x": {**SPACE["x"], "points": 4}, "kind": SPACE["kind"]}
    study = made({"name": sampler}, **({"space": space} if sampler == "grid" else {}))
    two(study, 1)
    first = reading.history(database, "s").trials[0]
    assert database.read(lambda connection: why(connection, study, first)).startswith(said)
    assert asked_again(database, study, first) is None
