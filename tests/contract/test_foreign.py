"""Plain Optuna on the same database: what it runs is foreign, what it leaves waiting is ours to run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import optuna
import pytest

from hpo.dashboard.live import LiveStudy
from hpo.dashboard.table import Wish, list_trials
from hpo.report.records.summary import summarize
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation
from hpo.studies.reading import history
from storage.database.engine import Database, Transaction
from storage.database.records import Claim, StudyRow, StudyState
from storage.history.audit import audit
from storage.queue import studies, tickets
from tests.support.claims import claim_next
from tests.support.runner import BrokeredRunner
from tests.support.shared import LEASE, Opener, lose, make_study, state_of

OBJECTIVE = """
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
    trial.report(x, 1)
    return x
"""
SPACE = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
}


@pytest.fixture(params=["declared", "define-by-run"])
def runner(
    request: pytest.FixtureRequest, database: Database, party: Opener, tmp_path: Path
) -> Iterator[BrokeredRunner]:
    """Five trials of a sampler that learns."""
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    spec = {
        "study": "study",
        "objective": "mine.py",
        "direction": "minimize",
        "sampler": {"name": "tpe", "n_startup_trials": 1},
        "budget": {"trials": 5, "target": 0.0},
        **({"space": SPACE} if request.param == "declared" else {}),
    }
    settings = Settings(artifacts=(tmp_path / "artifacts").as_uri())
    study = creation.create(database, parse_spec(spec), settings)
    made = BrokeredRunner(party(study), study, tmp_path)
    yield made
    made.close()


def plain(database: Database, row: StudyRow) -> optuna.Study:
    """As another program opens it."""
    url = database.url.render_as_string(hide_password=False)
    return optuna.load_study(study_name=row.name, storage=optuna.storages.RDBStorage(url))


def objective(trial: optuna.Trial) -> float:
    trial.suggest_categorical("optimizer", ["sgd", "adam"])
    return trial.suggest_float("x", 0, 1) - 1.0


def test_trials_of_plain_optuna_are_shown_and_never_counted(runner: BrokeredRunner) -> None:
    """Before, between and while ours run; each meets the target, and none ends the study."""
    database, row = runner.database, runner.study
    theirs = plain(database, row)
    theirs.optimize(objective, n_trials=1)
    runner.run_one()
    theirs.optimize(objective, n_trials=1)
    running = theirs.ask()
    for _ in range(4):
        assert runner.run_one().state == "complete"
    assert state_of(database, row) is StudyState.FINISHED
    found = history(database, row.name)
    assert [trial.foreign for trial in found.trials] == [True, False, True, True, *[False] * 4]
    assert found.trials[3].state == "running"
    assert found.trials[0].worker == "foreign"
    for state in ("complete", "running", "waiting"):
        listed = list_trials(LiveStudy(database, row), Wish(f"state={state}")).trials
        assert {trial.state for trial in listed} <= {state}
    assert summarize(found).counts["complete"] == 5
    assert any("Outside the budget: 3 foreign trials" in sentence for sentence in summarize(found).sentences)
    now = database.read(lambda c: tickets.counts(c, row.id))
    assert (now.complete, now.ended, now.total) == (5, 5, 5)
    theirs.tell(running, 0.5)
    checked = database.read(lambda c: audit(c, row))
    assert checked.holds
    assert (checked.foreign, checked.results) == ([0, 2, 3], 5)
    assert any("trials 0, 2, 3" in check.found for check in checked.checks)
    saw = runner.desk.study.known.trials()
    assert [trial.value for trial in saw if trial.number in (0, 2)] == [t.value for t in theirs.trials[:3:2]]
    assert found.best is not None
    assert found.best.number == theirs.best_trial.number, "as Optuna says of the same database"


def test_what_plain_optuna_left_waiting_takes_a_blank_ticket(runner: BrokeredRunner) -> None:
    database, row = runner.database, runner.study
    theirs = plain(database, row)
    theirs.enqueue_trial({"x": 0.25, "optimizer": "adam"}, user_attrs={"by": "hand"})
    theirs.enqueue_trial({"x": 0.75})
    for _ in range(5):
        assert runner.run_one().state == "complete"
    found = history(database, row.name)
    newest = max(trial._trial_id for trial in theirs.trials)
    assert runner.desk.study.none_waits == newest - 1, "the last claim looked at new trials alone"
    assert state_of(database, row) is StudyState.FINISHED
    assert [trial.foreign for trial in found.trials] == [False] * 5
    assert found.trials[0].params == {"x": 0.25, "optimizer": "adam"}
    assert found.trials[0].user_attrs["by"] == "hand"
    assert found.trials[1].params["x"] == 0.75
    assert [trial.value for trial in theirs.trials[:2]] == [0.25, 0.75]
    assert database.read(lambda c: audit(c, row)).holds
    theirs.enqueue_trial({"x": 0.5})
    waits = history(database, row.name).trials[5]
    assert (waits.state, waits.foreign, waits.attempts) == ("waiting", False, 0)
    assert database.read(lambda c: audit(c, row)).holds
    database.write(lambda c: studies.extend(c, row.id, [None], cells=False))
    runner.run_one()
    assert history(database, row.name).trials[5].values == (0.5,)


def test_a_point_that_does_not_fit_fails_its_trial_with_a_sentence(runner: BrokeredRunner) -> None:
    plain(runner.database, runner.study).enqueue_trial({"x": 0.5, "optimizer": "admm"})
    ended = runner.run_one()
    assert ended.state == "failed"
    assert "admm" in str(ended.error)
    assert runner.run_one().state == "complete", "the runner goes on"


def test_a_waiting_trial_goes_to_one_of_us_or_to_plain_optuna(database: Database, party: Opener) -> None:
    """One that is lost goes on as itself; a point of ours takes none."""
    row = make_study(database, [{"x": 0.1}, None, None], enqueued=1)
    theirs = plain(database, row)
    theirs.enqueue_trial({"x": 0.2})
    theirs.enqueue_trial({"x": 0.3})
    one, two, three = (party(row, name) for name in ("one", "two", "three"))
    assert one.claim().trial_id is None
    claim = two.claim()
    assert (claim.number, claim.trial_number, claim.point) == (1, 0, {"x": 0.2})
    assert theirs.ask().number == 1, "plain Optuna takes the other"
    assert three.claim().trial_id is None
    lose(database, claim.lease)
    again = two.claim()
    assert (again.number, again.trial_number) == (1, 0)
    two.start(again)
    two.complete()
    assert [trial.state.name for trial in theirs.trials] == ["COMPLETE", "RUNNING"]
    assert database.read(lambda c: audit(c, row)).holds


def test_what_a_claim_saw_is_good_once_it_is_committed(database: Database, party: Opener) -> None:
    """Rolled back, it leaves a trial waiting that the next claim in its transaction saw taken."""
    row = make_study(database, 3)
    theirs = plain(database, row)
    theirs.enqueue_trial({"x": 0.2})
    one = party(row)

    def claim(connection: Transaction, runner: int, none_waits: int) -> Claim:
        asks = (connection, row.id, one.id, runner, "cpu", LEASE)
        found = claim_next(*asks, none_waits=none_waits)
        assert isinstance(found, Claim)
        return found

    def two(connection: Transaction, *, fails: bool = False) -> list[tuple[int | None, int]]:
        found = [claim(connection, runner, 0) for runner in (1, 2)]
        if fails:
            raise InterruptedError
        return [(made.trial_number, made.none_waits) for made in found]

    waiting = theirs.trials[0]._trial_id
    with pytest.raises(InterruptedError):
        database.write(partial(two, fails=True))
    assert database.write(two) == [(0, waiting - 1), (None, waiting)]
    theirs.enqueue_trial({"x": 0.3})
    assert database.write(lambda c: claim(c, 3, waiting)).trial_number == 1
