"""What an objective says through its worker's broker: in which order it is written, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import optuna
import pytest
import sqlalchemy as sa
import torch

from hpo.errors import SpecError
from hpo.runner import results, session
from hpo.runner.interrupt import Interrupted
from hpo.runner.link import ForkedError
from hpo.runner.messages import UNHEARD
from hpo.runner.study import NotAnObjectivesError
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation
from hpo.studies.reading import history
from hpo.worker.events import Ended, NoTicket
from hpo.worker.study import ServedStudy
from storage.database.engine import Database, Patience
from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError, LeaseLostError
from storage.database.records import AttemptState, StudyRow, StudyState
from storage.database.tables import attempt, ticket
from storage.files.artifacts import ArtifactStore
from storage.files.local_files import LocalFiles
from storage.queue import attempts, events
from storage.queue.attempts import Report, Write
from tests.support.runner import BrokeredRunner
from tests.support.shared import Opener, attempts_of, lose, state_of, ticket_row, ticket_states
from tests.support.waiting import wait_until

# What the running trial does; the objective's file finds it here.
act: Callable[[Any], Any] = lambda _trial: 0.5  # noqa: E731 -- each test sets its own

OBJECTIVE = """
from tests.contract import test_broker

def objective(trial):
    return test_broker.act(trial)
"""
MOMENT = 0.3  # seconds in which what must not happen would have happened


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


class Clerk:
    """Every commit of what runners said, held up while `go` is not set, and what was seen after each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        self.is_held = threading.Event()
        self.batches: list[Sequence[Report | Write]] = []
        self.look: Callable[[], None] = lambda: None
        commit = attempts.commit

        def watched(write: Any, entries: Sequence[Report | Write], *more: Any) -> list[Any]:
            self.is_held.set()
            assert self.go.wait(20)
            self.batches.append(entries)
            answers = commit(write, entries, *more)
            self.look()
            return answers

        monkeypatch.setattr(attempts, "commit", watched)

    def hold(self) -> None:
        self.is_held.clear()
        self.go.clear()


@pytest.fixture
def clerk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clerk]:
    made = Clerk(monkeypatch)
    yield made
    made.go.set()


class Outage:
    """A worker's database that is away when told so; everybody else still reaches it."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away = False
        reach = database.transaction

        @contextmanager
        def transaction(*, write: bool = True) -> Iterator[Any]:
            if self.is_away:
                raise DatabaseUnreachableError("it is away")
            with reach(write=write) as connection:
                yield connection

        monkeypatch.setattr(database, "transaction", transaction)


def in_thread(runner: BrokeredRunner) -> threading.Thread:
    """The runner runs the next ticket in a thread."""
    runner.order()
    task = runner.task()
    assert task is not None

    def run() -> None:
        with suppress(DatabaseFaultError):  # which ends a runner's process
            runner.session.run(task)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> None:
    thread.join(30)
    assert not thread.is_alive()


def stored(database: Database, study: StudyRow, number: int = 0) -> optuna.trial.FrozenTrial:
    """The trial as the database has it now."""
    trials = database.rdb.get_all_trials(study.optuna_study_id)
    return next(trial for trial in trials if trial.number == number)


# Order


def test_a_checkpoint_becomes_visible_only_after_all_reports_before_it_are_committed(
    database: Database,
    study: StudyRow,
    runner: BrokeredRunner,
    clerk: Clerk,
    doing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the curve of whoever goes on from it would have a hole for ever."""
    saved, seen = threading.Event(), []
    put = ArtifactStore.put

    def seeing(self: ArtifactStore, key: str, content: bytes, *more: Any) -> Any:
        if "checkpoint-" in key:
            seen.append(sorted(stored(database, study).intermediate_values))
            saved.set()
        return put(self, key, content, *more)

    monkeypatch.setattr(ArtifactStore, "put", seeing)

    def objective(trial: Any) -> float:
        for step in (1, 2, 3):
            trial.report(0.1, step)
        trial.checkpoint.save({"step": 3}, 3)
        return 1.0

    doing(objective)
    clerk.hold()
    thread = in_thread(runner)
    assert clerk.is_held.wait(10)
    assert not saved.wait(MOMENT), "saved before the reports were written"
    clerk.go.set()
    joined(thread)
    assert seen == [[1, 2, 3]]


def test_a_result_follows_its_reports(
    database: Database, study: StudyRow, runner: BrokeredRunner, clerk: Clerk, doing: Any
) -> None:
    seen: list[tuple[bool, list[int]]] = []

    def look() -> None:
        trial = stored(database, study)
        seen.append((trial.state.is_finished(), sorted(trial.intermediate_values)))

    def objective(trial: Any) -> float:
        for step in range(1, 21):
            trial.report(0.1, step)
        return 1.0

    clerk.look = look
    doing(objective)
    assert runner.run_one().values == (1.0,)
    assert seen[-1] == (True, list(range(1, 21)))
    assert all(reports == list(range(1, 21)) for is_over, reports in seen if is_over)


def test_so_many_messages_are_under_way_and_then_a_report_waits(
    database: Database, study: StudyRow, runner: BrokeredRunner, clerk: Clerk, doing: Any
) -> None:
    """A trial that reports faster than the database takes it fills no memory."""
    reported: list[int] = []
    beyond = threading.Event()

    def objective(trial: Any) -> float:
        for step in range(1, 201):
            trial.report(0.1, step)
            reported.append(step)
            if step > UNHEARD:
                beyond.set()
        return 1.0

    doing(objective)
    clerk.hold()
    thread = in_thread(runner)
    wait_until(lambda: len(reported) == UNHEARD, 10, what="as many reports as may be under way")
    assert not beyond.wait(MOMENT)
    clerk.go.set()
    joined(thread)
    assert sorted(stored(database, study).intermediate_values) == list(range(1, 201))


def test_the_pruner_is_asked_after_the_commit_of_what_it_decides_on(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def should_prune(self: ServedStudy, *_: Any) -> bool:
        seen.append(sorted(stored(database, study).intermediate_values))
        return len(seen) == 3

    monkeypatch.setattr(ServedStudy, "should_prune", should_prune)

    def objective(trial: Any) -> float:
        for step in range(1, 10):
            trial.report(step / 10, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0

    doing(objective)
    assert runner.run_one().state == "pruned"
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert stored(database, study).value == 0.3


def test_a_pruner_sees_what_the_workers_other_runners_have_reported(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    study = make_study(pruner={"name": "median", "n_startup_trials": 1})
    runner = open_runner(study)

    def objective(trial: Any) -> float:
        worst = trial.number == 1
        for step in range(1, 4):
            trial.report(0.0 if worst else 1.0, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0

    doing(objective)
    assert [runner.run_one().state for _ in range(2)] == ["complete", "pruned"]
    assert sorted(stored(database, study, 1).intermediate_values) == [1]


def test_two_runners_of_one_worker_share_their_commits(
    study: StudyRow, open_runner: Any, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes during a commit goes into the next, however many runners it is from."""
    one = open_runner(study)
    two = open_runner(study, beside=one)
    monkeypatch.setattr(session, "captured", lambda *_: nullcontext())  # both have this process's output
    commits: list[int] = []

    @sa.event.listens_for(one.database.engine, "commit")
    def count(_connection: Any) -> None:
        commits.append(1)

    both = threading.Barrier(2)

    def objective(trial: Any) -> float:
        both.wait(20)
        for step in range(1, 101):
            trial.report(0.1, step)
        return float(trial.number)

    doing(objective)
    for thread in [in_thread(one), in_thread(two)]:
        joined(thread)
    wait_until(lambda: one.said(Ended) and two.said(Ended), 10, what="both ends")
    assert sorted(runner.said(Ended)[-1].values for runner in (one, two)) == [(0.0,), (1.0,)]
    assert sum(commits) < 100, "200 reports"
    for number in (0, 1):
        assert sorted(stored(one.database, study, number).intermediate_values) == list(range(1, 101))


# The fence


SAYS: dict[str, Callable[[Any], Any]] = {
    "report": lambda trial: trial.report(0.2, 2),
    "should_prune": lambda trial: trial.should_prune(),
    "attribute": lambda trial: trial.set_user_attr("late", 1),
    "constraint": lambda trial: trial.set_constraint("late", 1.0),
    "parameter": lambda trial: trial.suggest_float("late", 0, 1),
    "checkpoint": lambda trial: trial.checkpoint.save({"step": 2}, 2),
    "file": lambda trial: trial.artifact(__file__),
    "study's attribute": lambda trial: trial.study.set_user_attr("late", 1),
    "study": lambda trial: trial.study.trials,
    "study's attributes": lambda trial: trial.study.user_attrs,
    "stop": lambda trial: trial.study.stop(),
    "point": lambda trial: trial.study.enqueue_trial({"x": 0.5}),
}


def test_a_claim_goes_with_what_others_write(
    database: Database, study: StudyRow, open_runner: Any, doing: Any, clerk: Clerk
) -> None:
    """A result and the next ticket of another runner come during a commit: one more writes both."""
    one = open_runner(study)
    two = open_runner(study, beside=one)
    reports, ends = threading.Event(), threading.Event()

    def objective(trial: Any) -> float:
        assert reports.wait(20)
        trial.report(0.1, 1)
        assert ends.wait(20)
        return 0.5

    doing(objective)
    thread = in_thread(one)
    clerk.hold()
    reports.set()
    assert clerk.is_held.wait(20)
    ends.set()
    two.order()
    wait_until(lambda: one.broker._inbox.qsize() >= 2, 20, what="a result and an order wait")
    seen: list[list[str]] = []
    clerk.look = lambda: seen.append(ticket_states(database, study)[:2])
    clerk.go.set()
    joined(thread)
    assert two.task() is not None
    assert seen[:2] == [["running", "queued"], ["complete", "running"]]
    assert one.said(Ended)[-1].values == (0.5,)


@pytest.mark.parametrize("what", SAYS)
def test_a_lease_lost_meanwhile_ends_the_objective_and_counts_one_refused_write(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any, what: str
) -> None:
    """Not even `except Exception` keeps it going, and nothing it said afterwards is written."""
    tries: list[str] = []
    leases: list[Any] = []

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        trial.should_prune()
        leases.append(runner.desk.held.lease)
        lose(database, leases[0])
        for step in range(100):
            tries.append(what)
            try:
                SAYS[what](trial)
                trial.report(0.3, 3 + step)
                trial.should_prune()
            except Exception:
                continue
        return 1.0

    doing(objective)
    assert runner.run_one().state == "lost"
    assert len(tries) == 1
    assert attempts_of(database, leases[0]) == ["lost"]
    row = ticket_row(database, leases[0])
    assert (row.state, row.rejected) == ("queued", 1)
    assert state_of(database, study) is StudyState.RUNNING
    assert set(database.read(lambda c: c.scalars(sa.select(ticket.c.point)).all())) == {None}
    trial = stored(database, study)
    assert trial.intermediate_values == {1: 0.1}
    assert trial.user_attrs == {}
    assert not trial.constraints


def test_a_thread_left_over_from_an_earlier_trial_writes_nothing_to_the_next_ones(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    earlier: list[Any] = []
    said: list[BaseException | None] = []

    def left_over(trial: Any, call: Callable[[Any], Any]) -> None:
        try:
            call(trial)
            said.append(None)
        except BaseException as error:
            said.append(error)

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        if earlier:
            late = [
                lambda t: t.report(9.0, 9),
                lambda t: t.set_user_attr("late", 1),
                lambda t: t.should_prune(),
                lambda t: t.suggest_float("late", 0, 1),
                lambda t: t.study.set_user_attr("late", 1),
            ]
            for call in late:
                thread = threading.Thread(target=left_over, args=(earlier[0], call), daemon=True)
                thread.start()
                joined(thread)
        earlier.append(trial)
        return float(trial.number)

    doing(objective)
    assert [runner.run_one().values for _ in range(2)] == [(0.0,), (1.0,)]
    assert [type(error) for error in said] == [Interrupted] * 5
    for number in (0, 1):
        trial = stored(database, study, number)
        assert (trial.intermediate_values, trial.user_attrs, list(trial.params)) == ({1: 0.1}, {}, ["x"])
    assert database.rdb.get_study_user_attrs(study.optuna_study_id) == {}


def test_a_thread_that_waits_to_report_when_its_trial_ends_reports_nothing_to_the_next(
    database: Database, study: StudyRow, runner: BrokeredRunner, clerk: Clerk, doing: Any
) -> None:
    """It waited because too much was under way; the next trial has all its room."""
    threads: list[threading.Thread] = []
    full = threading.Event()

    def flood(trial: Any) -> None:
        try:
            for step in range(2, 1000):
                trial.report(9.0, step)
                if step >= UNHEARD - 2:
                    full.set()
        except Interrupted:
            return

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        if trial.number == 0:
            clerk.hold()
            threads.append(threading.Thread(target=flood, args=(trial,), daemon=True))
            threads[0].start()
            assert full.wait(10)
            threading.Timer(MOMENT, clerk.go.set).start()
        return float(trial.number)

    doing(objective)
    assert [runner.run_one().values for _ in range(2)] == [(0.0,), (1.0,)]
    joined(threads[0])
    assert stored(database, study, 1).intermediate_values == {1: 0.1}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_ticket_that_is_lost_while_its_point_is_chosen_leaves_its_runner_free(
    database: Database, make_study: Any, open_runner: Any, doing: Any, sampler: str, monkeypatch: Any
) -> None:
    """A fit may take longer than a lease in an outage; the runner has heard nothing of a trial yet."""
    study = make_study(sampler={"name": sampler, "seed": 0})
    runner = open_runner(study)
    suggested, lost = ServedStudy.suggested, []

    def slow(self: ServedStudy, claim: Any, *more: Any) -> Any:
        if not lost:
            lost.append(claim.lease)
            lose(database, claim.lease)
        return suggested(self, claim, *more)

    monkeypatch.setattr(ServedStudy, "suggested", slow)
    doing(lambda trial: 1.0)
    runner.order()
    assert runner.task() is None
    assert not runner.said(NoTicket)[0].ended
    database.clock.offset += 60
    assert runner.run_one().values == (1.0,)
    assert attempts_of(database, lost[0])[0] == "lost"


def test_a_runner_that_dies_while_the_database_cannot_be_used_keeps_its_place_from_nobody(
    runner: BrokeredRunner, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No runner is started in its place before its end is settled."""
    entered, go = threading.Event(), threading.Event()

    def broken(*_: Any) -> Any:
        entered.set()
        assert go.wait(20)
        raise DatabaseFaultError("no such table")

    monkeypatch.setattr(attempts, "commit", broken)
    said = threading.Event()

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        assert entered.wait(10)
        trial.report(0.2, 2)
        said.set()
        return 1.0

    doing(objective)
    thread = in_thread(runner)
    assert said.wait(10)
    wait_until(lambda: runner.broker._inbox.qsize(), 10, what="its last words are heard")
    runner.broker.leave(runner.desk, AttemptState.LOST, "it died")
    assert runner.broker.unsettled == 1
    go.set()
    wait_until(lambda: not runner.broker.unsettled, 10, what="it is settled")
    joined(thread)


# Processes that the objective forks


def reports_in_child(trial: Any, say: Callable[..., Any]) -> None:
    for call in (
        lambda: trial.report(9.0, 9),
        lambda: trial.should_prune(),
        lambda: trial.set_user_attr("child", 1),
        lambda: trial.study.trials,
        lambda: trial.checkpoint.save({}, 9),
    ):
        try:
            call()
            say("said;")
        except ForkedError as error:
            say(f"{error};" if "belongs to the process" in str(error) else "another sentence;")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_reports_gets_a_sentence_and_the_trial_goes_on(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    heard: list[str] = []

    def objective(trial: Any) -> float:
        for step in (1, 2):
            trial.report(0.1, step)
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    reports_in_child(trial, lambda text, end=writer: os.write(end, text.encode()))
                finally:
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as told:
                heard.append(told.read())
            os.waitpid(child, 0)
        assert not trial.should_prune()
        return 1.0

    doing(objective)
    assert runner.run_one().values == (1.0,)
    assert [text.count("belongs to the process it was given to") for text in heard] == [5, 5]
    assert stored(database, study).intermediate_values == {1: 0.1, 2: 0.1}
    assert stored(database, study).user_attrs == {}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_pool_of_forked_processes_computes_for_a_trial_and_does_not_speak_for_it(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    def objective(trial: Any) -> float:
        fork = multiprocessing.get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        child = fork.Process(target=reports_in_child, args=(trial, sender.send))
        child.start()
        heard = [receiver.recv() for _ in range(5)]
        child.join(20)
        assert all("belongs to the process" in text for text in heard), heard
        trial.report(0.1, 1)
        return 1.0

    doing(objective)
    ended = runner.run_one()
    assert ended.values == (1.0,), ended.error
    assert stored(database, study).intermediate_values == {1: 0.1}


# The database away


def kept_file(study: StudyRow, tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob(f"artifacts/study-*/*/*/{results.FILE}"))


def test_a_result_that_cannot_be_written_is_kept_on_disk_at_once_and_removed_when_it_is(
    database: Database,
    study: StudyRow,
    runner: BrokeredRunner,
    doing: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outage = Outage(runner.database, monkeypatch)

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        trial.should_prune()
        outage.is_away = True
        trial.report(0.2, 2)
        trial.log(loss=0.3)
        ended.append(time.monotonic())
        return 1.0

    ended: list[float] = []
    doing(objective)
    thread = in_thread(runner)
    wait_until(lambda: kept_file(study, tmp_path), 10, what="the result is kept")
    assert time.monotonic() - ended[0] < session.KEEP_AFTER + 1.5
    assert thread.is_alive()
    assert not stored(database, study).state.is_finished()
    outage.is_away = False
    joined(thread)
    assert kept_file(study, tmp_path) == []
    assert stored(database, study).value == 1.0
    assert stored(database, study).intermediate_values == {1: 0.1, 2: 0.2}


def test_a_result_without_an_answer_for_a_second_is_kept_too(
    database: Database, study: StudyRow, runner: BrokeredRunner, clerk: Clerk, doing: Any, tmp_path: Path
) -> None:
    """A database that is slow, or locked by others, is away before anybody knows."""
    ended: list[float] = []

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        trial.should_prune()
        clerk.hold()
        ended.append(time.monotonic())
        return 1.0

    doing(objective)
    thread = in_thread(runner)
    wait_until(lambda: kept_file(study, tmp_path), 10, what="the result is kept")
    assert session.KEEP_AFTER * 0.9 < time.monotonic() - ended[0] < session.KEEP_AFTER + 1.5
    clerk.go.set()
    joined(thread)
    assert kept_file(study, tmp_path) == []
    assert stored(database, study).value == 1.0


def test_while_the_database_is_away_a_report_waits_and_nothing_is_lost(
    database: Database,
    study: StudyRow,
    runner: BrokeredRunner,
    doing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outage = Outage(runner.database, monkeypatch)
    reported: list[int] = []

    def objective(trial: Any) -> float:
        outage.is_away = True
        for step in range(1, 11):
            trial.report(0.1, step)
            reported.append(step)
            wait_until(lambda: runner.link.is_away or not outage.is_away, 10, what="the runner is told")
        return 1.0

    doing(objective)
    thread = in_thread(runner)
    wait_until(lambda: runner.link.is_away, 10, what="the runner is told")
    time.sleep(MOMENT)
    assert reported == [1]
    outage.is_away = False
    joined(thread)
    assert sorted(stored(database, study).intermediate_values) == list(range(1, 11))


def test_the_kept_result_of_a_runner_that_is_gone_is_delivered_by_the_next_with_all_its_reports(
    database: Database,
    study: StudyRow,
    open_runner: Any,
    doing: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = open_runner(study), open_runner(study)
    outage = Outage(first.database, monkeypatch)
    began: list[int] = []

    def objective(trial: Any) -> float:
        began.append(trial.number)
        trial.report(0.1, 1)
        trial.should_prune()
        outage.is_away = True
        trial.report(0.2, 2)
        trial.log(step=3, loss=0.5)
        trial.set_constraint("size", 0.25)
        return 1.0

    doing(objective)
    thread = in_thread(first)
    wait_until(lambda: kept_file(study, tmp_path), 10, what="the result is kept")
    lease = first.desk.held.lease  # type: ignore[union-attr]
    lose(database, lease)  # its worker was killed
    database.clock.offset += 60
    assert second.run_one().values == (1.0,)
    assert began == [0], "trained once"
    trial = stored(database, study)
    assert (trial.value, trial.intermediate_values) == (1.0, {1: 0.1, 2: 0.2})
    assert trial.constraints == {"size": 0.25}
    assert attempts_of(database, lease) == ["lost", "complete"]
    assert kept_file(study, tmp_path) == []
    outage.is_away = False
    joined(thread)  # the first comes back, too late
    assert ticket_row(database, lease).rejected == 1
    assert attempts_of(database, lease) == ["lost", "complete"]
    assert kept_file(study, tmp_path) == []


def test_a_store_that_is_slow_to_remove_files_delays_no_commit(
    study: StudyRow, runner: BrokeredRunner, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, release = threading.Event(), threading.Event()
    remove = LocalFiles.remove

    def slow(*args: Any, **more: Any) -> Any:
        if threading.current_thread().name == "housekeeper":
            going.set()
            assert release.wait(20)
        return remove(*args, **more)

    monkeypatch.setattr(LocalFiles, "remove", slow)

    def objective(trial: Any) -> float:
        trial.checkpoint.save({"step": 1}, 1)
        trial.checkpoint.save({"step": 2}, 2)
        trial.artifact(__file__, "model.pt")
        return 1.0

    doing(objective)
    try:
        runner.run_one()
        assert going.wait(10)
        assert runner.run_one().values == (1.0,)
    finally:
        release.set()


# What an objective reads, and what it may do to its study


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

    def broken(self: ServedStudy, held: Any, trial: Any, name: str, *more: Any) -> float:
        if name == "bad":
            raise error
        return suggested(self, held, trial, name, *more)

    monkeypatch.setattr(ServedStudy, "suggested_one", broken)
    doing(lambda trial: trial.suggest_float("bad" if trial.number == 0 else "good", 0, 1))
    ended = runner.run_one()
    assert ended.state == "failed"
    assert "no such matrix" in str(ended.error)
    assert runner.run_one().state == "complete"


def test_a_lost_lease_is_never_an_exception_that_an_objective_can_swallow() -> None:
    assert issubclass(LeaseLostError, Exception)
    assert not issubclass(Interrupted, Exception)
