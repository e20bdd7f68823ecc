"""What an objective says through its worker's broker: in which order it is written, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from hpo.runner import results, session
from hpo.runner.interrupt import Interrupted
from hpo.runner.link import ForkedError
from hpo.runner.messages import UNHEARD
from hpo.worker.events import Ended
from hpo.worker.pruning import Pruning
from hpo.worker.study import ServedStudy
from storage.database.engine import Database
from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError, LeaseLostError
from storage.database.records import AttemptState, NothingToClaim, StudyRow, StudyState
from storage.database.tables import ticket
from storage.files.artifacts import ArtifactStore
from storage.files.local_files import LocalFiles
from storage.queue import attempts
from storage.queue.attempts import Report, Write
from storage.queue.tickets import BESIDE
from tests.support.brokered import stored
from tests.support.clock import shift
from tests.support.runner import BrokeredRunner
from tests.support.shared import attempts_of, lose, state_of, ticket_row, ticket_states
from tests.support.waiting import wait_until

MOMENT = 0.3  # seconds in which what must not happen would have happened


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
            assert self.go.wait(120)
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
    thread.join(120)
    assert not thread.is_alive()


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
    assert clerk.is_held.wait(120)
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
    wait_until(lambda: len(reported) == UNHEARD, what="as many reports as may be under way")
    assert not beyond.wait(MOMENT)
    clerk.go.set()
    joined(thread)
    assert sorted(stored(database, study).intermediate_values) == list(range(1, 201))


def test_the_pruner_is_asked_after_the_commit_of_what_it_decides_on(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def prunes(self: Pruning, *_: Any) -> bool:
        seen.append(sorted(stored(database, study).intermediate_values))
        return len(seen) == 3

    monkeypatch.setattr(Pruning, "prunes", prunes)

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
    study: StudyRow, open_runner: Any, doing: Any, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes during a commit goes into the next, however many runners it is from."""
    one = open_runner(study)
    two = open_runner(study, beside=one)
    monkeypatch.setattr(session, "captured", lambda *_: nullcontext())  # both have this process's output
    commits: list[int] = []

    @sa.event.listens_for(one.database.engine, "commit")
    def count(_connection: Any) -> None:
        commits.append(1)

    reported: list[int] = []
    together = threading.Barrier(3)

    def objective(trial: Any) -> float:
        together.wait(120)
        for step in range(1, 101):
            trial.report(0.1, step)
            reported.append(step)
        return float(trial.number)

    doing(objective)
    threads = [in_thread(one), in_thread(two)]
    clerk.hold()
    together.wait(120)
    wait_until(lambda: len(reported) == 2 * UNHEARD, what="both have said what may be under way")
    clerk.go.set()
    for thread in threads:
        joined(thread)
    wait_until(lambda: one.said(Ended) and two.said(Ended), what="both ends")
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
        assert reports.wait(120)
        trial.report(0.1, 1)
        assert ends.wait(120)
        return 0.5

    doing(objective)
    thread = in_thread(one)
    clerk.hold()
    reports.set()
    assert clerk.is_held.wait(120)
    ends.set()
    two.order()
    wait_until(lambda: one.broker._inbox.qsize() >= 2, what="a result and an order wait")
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
            assert full.wait(120)
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
    assert not runner.said(NothingToClaim)[0].ended
    shift(60)
    assert runner.run_one().values == (1.0,)
    assert attempts_of(database, lost[0])[0] == "lost"


def test_a_runner_that_dies_while_the_database_cannot_be_used_keeps_its_place_from_nobody(
    runner: BrokeredRunner, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No runner is started in its place before its end is settled."""
    entered, go = threading.Event(), threading.Event()

    def broken(*_: Any) -> Any:
        entered.set()
        assert go.wait(120)
        raise DatabaseFaultError("no such table")

    monkeypatch.setattr(attempts, "commit", broken)
    said = threading.Event()

    def objective(trial: Any) -> float:
        trial.report(0.1, 1)
        assert entered.wait(120)
        trial.report(0.2, 2)
        said.set()
        return 1.0

    doing(objective)
    thread = in_thread(runner)
    assert said.wait(120)
    wait_until(lambda: runner.broker._inbox.qsize(), what="its last words are heard")
    runner.broker.leave(runner.desk, AttemptState.LOST, "it died")
    assert runner.broker.unsettled == 1
    go.set()
    wait_until(lambda: not runner.broker.unsettled, what="it is settled")
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
        child.join(120)
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
        return 1.0

    monkeypatch.setattr(session, "KEEP_AFTER", 600)
    doing(objective)
    thread = in_thread(runner)
    wait_until(lambda: kept_file(study, tmp_path), what="the result is kept")
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
    wait_until(lambda: kept_file(study, tmp_path), what="the result is kept")
    assert time.monotonic() - ended[0] > session.KEEP_AFTER * 0.9
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
            wait_until(lambda: runner.link.is_away or not outage.is_away, what="the runner is told")
        return 1.0

    doing(objective)
    thread = in_thread(runner)
    wait_until(lambda: runner.link.is_away, what="the runner is told")
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
    wait_until(lambda: kept_file(study, tmp_path), what="the result is kept")
    lease = first.desk.held.lease  # type: ignore[union-attr]
    lose(database, lease)  # its worker was killed
    shift(60)
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


def test_a_runner_whose_checkpoint_is_further_than_any_has_its_trial_lost_as_often_as_at_first(
    database: Database, study: StudyRow, runner: BrokeredRunner, doing: Any
) -> None:
    def objective(trial: Any) -> float:
        step = (trial.checkpoint.latest or 0) + 1
        trial.report(0.1, step)
        trial.checkpoint.save({"step": step}, step)
        trial.should_prune()  # once all of that is committed
        if step < 7:
            lose(database, runner.desk.held.lease)  # type: ignore[union-attr]
            trial.report(0.1, step + 1)
            trial.should_prune()
        return float(step)

    doing(objective)
    for _ in range(6):  # beyond `retry.lost`
        assert runner.run_one().state == "lost"
        shift(60)
    assert runner.run_one().values == (7.0,)
    assert sorted(stored(database, study).intermediate_values) == list(range(1, 8))


def test_a_store_that_is_slow_to_remove_files_delays_no_commit(
    study: StudyRow, runner: BrokeredRunner, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, release = threading.Event(), threading.Event()
    remove = LocalFiles.remove

    def slow(*args: Any, **more: Any) -> Any:
        if threading.current_thread().name == "housekeeper":
            going.set()
            assert release.wait(120)
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
        assert going.wait(120)
        assert runner.run_one().values == (1.0,)
    finally:
        release.set()


def test_lanes_of_a_runner_leave_other_workers_their_part_of_the_tickets(
    database: Database, study: StudyRow, open_runner: Any
) -> None:
    one, _other = open_runner(study), open_runner(study)
    desks = [one.desk]
    for slot in range(1, 6):
        one.link.lane()
        desks.append(replace(one.desk, slot=slot))
    one.broker.order(desks, BESIDE)
    wait_until(lambda: "running" in ticket_states(database, study), what="a claim")
    assert ticket_states(database, study).count("running") == 3, "of six, of two workers with a runner each"


def test_a_lost_lease_is_never_an_exception_that_an_objective_can_swallow() -> None:
    assert issubclass(LeaseLostError, Exception)
    assert not issubclass(Interrupted, Exception)
