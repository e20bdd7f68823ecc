"""Results of two codes never stand side by side unmarked, also when the first ones arrive together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import CodeDiffersError, ExitCode
from hpo.runner import results
from hpo.runner.interrupt import StopFlag
from hpo.runner.messages import Boot, Ended
from hpo.runner.session import StudySession
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation
from storage.database.engine import Database
from storage.database.records import StudyRow, TicketState
from storage.files import checkpoints
from storage.history.trials import read_trial
from tests.support.shared import Opener, Party, attempts_of, lose, ticket_row, ticket_states

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


class Runner:
    """A runner with an objective of its own: the number that it returns."""

    def __init__(
        self, one: Party, folder: Path, value: float, *, allow: bool = False, pruned: bool = False
    ) -> None:
        folder.mkdir()
        (folder / "mine.py").write_text(OBJECTIVE.format(value=value, pruned=pruned))
        url = one.database.url.render_as_string(hide_password=False)
        boot = Boot(one.id, 0, "cpu", "cpu", url, str(folder), lease=30.0, allow_mismatch=allow)
        self.said: list[Any] = []
        self.session = StudySession(one.database, one.writer, boot, one.study.name)

    def run_one(self) -> Ended:
        self.session.run_one(StopFlag(), self.said.append)
        ended = self.said[-1]
        assert isinstance(ended, Ended)
        return ended


@pytest.fixture
def runner(study: StudyRow, party: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`runner(value)` is one more, whose code differs from that of another value."""
    made: list[Runner] = []

    def make(value: float, **options: Any) -> Runner:
        one = party(study, f"w{len(made)}")
        made.append(Runner(one, tmp_path / f"code-{len(made)}", value, **options))
        return made[-1]

    monkeypatch.setattr(sys.modules[__name__], "meanwhile", lambda: None)
    return make


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
    ended = loser.said[-1]
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
        kept = results.Finished(TicketState.COMPLETE, (2.0,), None, {}, lost.session.code.here)
        results.keep(lost.session.store, checkpoints.trial_key(study.uid, study.name, 0), 1, kept)
        raise KeyboardInterrupt

    monkeypatch.setattr(StudySession, "_failed", lambda self, *_: self.writer.release("told to leave"))
    during(monkeypatch, leave)
    lost.session.run_one(StopFlag(), lost.said.append)
    assert ticket_states(database, study) == ["queued", "complete"]
    assert sound.run_one().values == (1.0,)


def test_lost_attempts_count_from_the_newest_checkpoint_on(
    database: Database, study: StudyRow, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted once after the first checkpoint, the trial has all its attempts again."""
    one = runner(1.0)
    lost = []
    monkeypatch.setattr(StudySession, "_failed", lambda self, *_: Ended(self.writer.fence.lease, "lost"))

    def die() -> None:
        raise KeyboardInterrupt

    for _ in range(3):  # before any checkpoint
        lease = one.session.claim().lease
        lose(database, lease)
        lost.append(ticket_row(database, lease).lost)
        database.clock.offset += 60
    during(monkeypatch, die)
    lease = one.run_one().lease
    lose(database, lease)
    assert lost == [1, 2, 3]
    assert (ticket_row(database, lease).lost, ticket_row(database, lease).state) == (1, "queued")
    for _ in range(3):  # goes on from it, and gets no further
        database.clock.offset += 60
        during(monkeypatch, die)
        lease = one.run_one().lease
        lose(database, lease)
    assert (ticket_row(database, lease).lost, ticket_row(database, lease).state) == (4, "failed")
