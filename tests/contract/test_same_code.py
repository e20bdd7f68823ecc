"""Results of two codes never stand side by side unmarked, also when the first ones arrive together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import CodeDiffersError, ExitCode
from hpo.runner import results
from hpo.runner.interrupt import Interrupted
from hpo.runner.session import Session
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation
from hpo.worker.events import Ended
from storage.database.engine import Database
from storage.database.records import Lease, StudyRow, TicketState
from storage.files import checkpoints
from storage.history.trials import read_trial
from tests.support.clock import shift
from tests.support.runner import BrokeredRunner
from tests.support.shared import Opener, attempts_of, lose, ticket_row, ticket_states

# What the other worker does while this one's trial runs; the objectives below find it here.
meanwhile: Callable[[], None] = lambda: None  # noqa: E731 -- each test sets its own

OBJECTIVE = """
from tests.contract import test_same_code

def objective(trial):
    found = trial.checkpoint.load()
    trial.report({value}, 1)
    trial.checkpoint.save({{"code": {value}}}, 1)
    test_same_code.meanwhile()
    if {pruned}:
        raise __import__("optuna").TrialPruned
    return {value} if found is None else found["code"]
"""


@pytest.fixture
def study(database: Database, tmp_path: Path) -> StudyRow:
    spec = {
        "study": "same",
        "objective": "mine.py",
        "direction": "maximize",
        "sampler": "random",
        "budget": {"trials": 2},
        "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
    }
    return creation.create(database, parse_spec(spec), Settings(artifacts=(tmp_path / "artifacts").as_uri()))


@pytest.fixture
def runner(study: StudyRow, party: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`runner(value)` is one more, whose code differs from that of another value: it returns that number."""
    made: list[BrokeredRunner] = []

    def make(value: float, *, pruned: bool = False, allow: bool = False) -> BrokeredRunner:
        folder = tmp_path / f"code-{len(made)}"
        folder.mkdir()
        (folder / "mine.py").write_text(OBJECTIVE.format(value=value, pruned=pruned))
        one = party(study, f"w{len(made)}")
        made.append(BrokeredRunner(one, study, folder, allow=allow))
        return made[-1]

    monkeypatch.setattr(sys.modules[__name__], "meanwhile", lambda: None)
    yield make
    for one in made:
        one.close()


def during(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """`act` happens once, while the next trial runs."""

    def once() -> None:
        monkeypatch.setattr(sys.modules[__name__], "meanwhile", lambda: None)
        act()

    monkeypatch.setattr(sys.modules[__name__], "meanwhile", once)


@pytest.mark.parametrize("pruned", [False, True])
def test_of_two_first_results_that_arrive_together_the_second_code_is_refused(
    database: Database, study: StudyRow, runner: Any, monkeypatch: pytest.MonkeyPatch, pruned: bool
) -> None:
    """It is told what a later worker would be told; its ticket is tried anew by the study's own code."""
    loser, first = runner(2.0, pruned=pruned), runner(1.0)
    during(monkeypatch, first.run_one)
    with pytest.raises(CodeDiffersError, match="module mine was edited") as refused:
        loser.run_one()
    assert refused.value.exit_code == ExitCode.CODE_DIFFERS
    ended = loser.said(Ended)[-1]
    assert ticket_states(database, study) == ["queued", "complete"]
    assert attempts_of(database, ended.lease) == ["released"]
    assert first.run_one().values == (1.0,), "not from a checkpoint of other code"
    assert ticket_states(database, study) == ["complete", "complete"]


def test_a_second_code_that_is_allowed_is_marked_on_its_trial(
    database: Database, study: StudyRow, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, first = runner(2.0, allow=True), runner(1.0)
    during(monkeypatch, first.run_one)
    assert other.run_one().values == (2.0,)
    marks = []
    for number in (0, 1):
        record = database.read(partial(read_trial, row=study, number=number))
        assert record is not None
        marks.append(record.user_attrs.get("code_mismatch"))
    assert marks[1] is None
    assert "mine" in marks[0][0]


def test_a_kept_result_of_other_code_does_not_count(
    database: Database, study: StudyRow, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was finished while the database was away, by a worker that then had to go."""
    lost, sound = runner(2.0), runner(1.0)

    def leave() -> None:
        sound.run_one()
        kept = results.Finished(TicketState.COMPLETE, (2.0,), None, {}, lost.session.code)
        results.keep(lost.session.store, checkpoints.trial_key(study.uid, study.name, 0), 1, kept)
        raise Interrupted

    during(monkeypatch, leave)
    lost.run_one()
    assert ticket_states(database, study) == ["queued", "complete"]
    assert sound.run_one().values == (1.0,)


def test_lost_attempts_count_from_the_newest_checkpoint_on(
    database: Database, study: StudyRow, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted once after the first checkpoint, the trial has all its attempts again."""
    one = runner(1.0)
    lost = []
    monkeypatch.setattr(Session, "_finish", lambda *_, **__: None)

    def die() -> Lease:
        """The runner's process is gone before it says anything of its end."""
        one.order()
        one.session.run(one.task())
        one.link.flush()
        return one.desk.held.lease

    def crash() -> None:
        raise KeyboardInterrupt

    for _ in range(3):  # before any checkpoint
        lease = one.claim().lease
        lose(database, lease)
        lost.append(ticket_row(database, lease).lost)
        shift(60)
    during(monkeypatch, crash)
    lease = die()
    lose(database, lease)
    assert lost == [1, 2, 3]
    assert (ticket_row(database, lease).lost, ticket_row(database, lease).state) == (1, "queued")
    for _ in range(3):  # goes on from it, and gets no further
        shift(60)
        during(monkeypatch, crash)
        lease = die()
        lose(database, lease)
    assert (ticket_row(database, lease).lost, ticket_row(database, lease).state) == (4, "failed")
