"""What ends a study, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.storages._rdb import models

from hpo.report.records.summary import summarize
from hpo.studies import reading, steering
from storage.database.engine import Database
from storage.database.records import NothingToClaim, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, metric, ticket
from storage.history.audit import audit
from storage.queue import optuna_rows, seconds, studies, workers
from storage.queue.blame import BAD_START, BAD_STARTS
from tests.support.clock import shift
from tests.support.shared import (
    LEASE,
    Opener,
    Party,
    let_expire,
    make_study,
    state_of,
    steer,
    ticket_states,
)


def test_a_pruned_trials_last_report_does_not_reach_the_target(database: Database, party: Opener) -> None:
    study = make_study(database, 3, budget_target=0.9)
    one = party(study)
    one.begin()
    one.writer.deliver(TicketState.PRUNED, (0.95,))
    assert state_of(database, study) is StudyState.RUNNING
    one.finish_one(0.95)
    assert state_of(database, study) is StudyState.FINISHED


def test_a_spent_budget_of_seconds_stays_spent_over_a_pause(database: Database, party: Opener) -> None:
    study = make_study(database, 5, budget_seconds=10.0)
    one = party(study)
    one.begin()
    shift(11)
    one.complete()
    steer(database, study, StudyState.PAUSED)
    steer(database, study, StudyState.RUNNING)
    assert isinstance(one.try_claim(), NothingToClaim)


def test_a_retry_lets_a_study_that_is_stopping_go_on(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one, two = party(study, "one"), party(study, "two")
    one.begin()
    one.writer.fail("ValueError: no")
    two.begin()
    steer(database, study, StudyState.STOPPING)
    assert database.write(lambda connection: studies.retry_failed(connection, study.id)) == 1
    assert state_of(database, study) is StudyState.RUNNING


def test_failures_on_quarantined_workers_alone_are_given_back(database: Database, party: Opener) -> None:
    """A broken objective run twice is two bad starts, and still nobody's budget."""
    study = make_study(database, 2 * BAD_START)
    for name in ("first", "second"):
        worker = party(study, name)
        for _ in range(BAD_START):
            worker.begin()
            worker.writer.fail("RuntimeError: broken here")
    assert set(ticket_states(database, study)) == {"queued"}


def test_a_failure_on_a_worker_in_good_standing_is_the_settings_fault(
    database: Database, party: Opener
) -> None:
    study = make_study(database, BAD_START + 2, retry_failed=1)
    good, bad = party(study, "good"), party(study, "bad")
    good.finish_one()
    good.begin()
    good.writer.fail("ValueError: this setting")
    for _ in range(BAD_START):
        bad.begin()
        bad.writer.fail("RuntimeError: broken here")
    states = ticket_states(database, study)
    assert states.count("failed") == 1, "it failed on both; the others failed on the bad one alone"


def restarting(party: Opener, study: StudyRow, times: int = 1, *, every: bool = False) -> Party:
    """So many workers come, fail what they begin with, and go."""
    for _ in range(times):
        one = party(study, "pod", every=every)
        for _ in range(BAD_START):
            one.begin()
            one.writer.fail("Traceback ...\nRuntimeError: broken everywhere")
    return one


@pytest.mark.parametrize("every", [False, True])
def test_a_study_on_which_one_new_worker_after_the_other_fails_is_stopped(
    database: Database, party: Opener, every: bool
) -> None:
    """Pods that are started again and again would run a broken objective for ever."""
    study = make_study(database, 100)
    restarting(party, study, BAD_STARTS - 1, every=every)
    assert state_of(database, study) is StudyState.RUNNING
    restarting(party, study, every=every)
    row = database.read(lambda connection: studies.get(connection, study.name))
    assert row.state is StudyState.STOPPED
    assert "RuntimeError: broken everywhere" in str(row.ended_why)
    refused = party(study).try_claim()
    assert isinstance(refused, NothingToClaim)
    assert refused.ended
    # What failed on two workers in good standing is a setting's fault; everything else is tried again.
    failed = ticket_states(database, study).count("failed")
    assert failed == (BAD_START if every else 0)
    assert steer(database, study, StudyState.RUNNING) is StudyState.RUNNING
    party(study).finish_one()


def test_a_study_that_had_a_result_between_is_not_stopped(database: Database, party: Opener) -> None:
    """Bad machines that come and go are no reason to stop what works elsewhere."""
    study = make_study(database, 100)
    sound = party(study, "sound")
    for _ in range(BAD_STARTS + 2):
        restarting(party, study)
        sound.finish_one()
    assert state_of(database, study) is StudyState.RUNNING


def test_a_result_that_comes_last_lets_a_failing_study_go_on(database: Database, party: Opener) -> None:
    """A sound worker was at its first, long trial while bad ones came and went."""
    study = make_study(database, 100)
    sound = party(study, "sound")
    sound.begin()
    restarting(party, study, BAD_STARTS)
    assert state_of(database, study) is StudyState.STOPPING
    sound.complete()
    row = database.read(lambda connection: studies.get(connection, study.name))
    assert (row.state, row.ended_why) == (StudyState.RUNNING, None)
    sound.finish_one()


def test_a_stop_by_hand_holds_where_a_study_was_stopping_because_all_failed(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 100)
    sound = party(study, "sound")
    sound.begin()
    restarting(party, study, BAD_STARTS)
    assert steer(database, study, StudyState.STOPPING) is StudyState.STOPPING
    sound.complete()
    row = database.read(lambda connection: studies.get(connection, study.name))
    assert (row.state, row.ended_why) == (StudyState.STOPPED, "stopped by hand")


def test_a_stop_by_hand_does_not_hide_that_the_target_was_reached(database: Database, party: Opener) -> None:
    study = make_study(database, 3, budget_target=0.9)
    one, other = party(study), party(study)
    one.begin()
    other.begin()
    one.complete(0.95)
    assert steer(database, study, StudyState.STOPPING) is StudyState.STOPPING
    other.complete(0.1)
    assert state_of(database, study) is StudyState.FINISHED


@pytest.mark.parametrize("budget", ["target", "seconds"])
def test_a_retry_does_not_run_what_a_spent_budget_left(
    database: Database, party: Opener, budget: str
) -> None:
    spent = {"budget_target": 0.9} if budget == "target" else {"budget_seconds": 10.0}
    study = make_study(database, 9, **spent)
    one, other = party(study, "one"), party(study, "other")
    one.begin()
    one.writer.fail("ValueError: no")
    one.begin()
    shift(11)
    one.complete(0.95)
    assert isinstance(other.try_claim(), NothingToClaim)
    assert state_of(database, study) is StudyState.FINISHED
    assert steering.retry_failed(database, study) == 1
    assert state_of(database, study) is StudyState.FINISHED
    assert f"`hpo extend study --{budget}" in steering.unless_going(database, study)
    more = {"target": 0.99} if budget == "target" else {"seconds": 99.0}
    database.write(lambda c: studies.extend(c, study.id, [], cells=False, **more))
    assert other.claim().retry_of == 0


def test_a_finished_study_keeps_what_failed_on_a_worker_that_is_quarantined_later(
    database: Database, party: Opener
) -> None:
    """Nobody works at it any more: a ticket put back there would be tried by nobody."""
    short, *others = (
        make_study(database, count, name=name) for name, count in (("short", 2), ("a", 9), ("b", 9))
    )
    one = party(short, every=True)
    for row, times in zip((short, *others), (2, BAD_START, BAD_START), strict=True):
        one.study = row
        for _ in range(times):
            one.begin()
            one.writer.fail("RuntimeError: broken here")
    refused = one.try_claim()
    assert isinstance(refused, NothingToClaim)
    assert "quarantined" in refused.why
    assert (state_of(database, short), ticket_states(database, short)) == ("finished", ["failed"] * 2)
    assert database.read(lambda c: audit(c, studies.get(c, "short"))).holds
    for row in others:
        assert set(ticket_states(database, row)) == {"queued"}


def test_what_fails_on_a_quarantined_workers_other_runners_is_given_back_too(
    database: Database, party: Opener
) -> None:
    study = make_study(database, BAD_START + 3)
    one = party(study)
    claims = [one.claim(runner) for runner in range(BAD_START + 2)]
    for claim in claims:
        one.start(claim)
        one.writer.fail("RuntimeError: broken here")
    assert set(ticket_states(database, study)) == {"queued"}


def assert_used(database: Database, study: StudyRow, counted: float) -> None:
    """So many seconds are counted."""
    row = database.read(lambda connection: studies.get(connection, study.name))
    found = database.read(lambda connection: seconds.used(connection, row))
    assert found == pytest.approx(counted)


LEAVES: dict[str, tuple[Callable[[Database, Party], Any], float]] = {
    "drained": (lambda _, one: one.writer.release("drained"), 20),
    "complete": (lambda _, one: one.complete(), 20),
    "its worker died": (
        lambda database, one: database.write(lambda c: workers.bury(c, one.id)),
        20,
    ),
    "silent": (lambda database, _: None, 20 + LEASE),
    "silent and reaped later": (lambda database, _: let_expire(database), 20 + LEASE),
}


@pytest.mark.parametrize("how", LEAVES)
def test_seconds_rest_while_nobody_holds_a_live_lease(database: Database, party: Opener, how: str) -> None:
    """They go on with the next claim; after a silent end they rest from the end of its lease."""
    leave, counted = LEAVES[how]
    study = make_study(database, 9, budget_seconds=100.0)
    one, other = party(study, "one"), party(study, "other")
    one.begin()
    one.work(20)
    leave(database, one)
    shift(1000)
    assert_used(database, study, counted)
    other.begin()
    other.work(30)
    assert_used(database, study, counted + 30)
    assert other.claim(1)
    other.work(100)
    assert isinstance(other.try_claim(2), NothingToClaim)


def test_seconds_go_on_while_another_still_works(database: Database, party: Opener) -> None:
    study = make_study(database, 9, budget_seconds=100.0)
    one, other = party(study, "one"), party(study, "other")
    one.begin()
    other.begin()
    other.work(20)
    one.writer.release("drained")
    other.work(20)
    other.complete()
    shift(100)
    assert_used(database, study, 40)


def test_seconds_worked_after_an_outage_count_whoever_is_first_to_write(
    database: Database, party: Opener
) -> None:
    """Every lease expired meanwhile; one delivers before the other, which goes on, has renewed its own."""
    study = make_study(database, 9, budget_seconds=1000.0)
    one, other = party(study, "one"), party(study, "other")
    one.begin()
    other.begin()
    shift(2 * LEASE)
    one.complete()
    other.work(60)
    assert_used(database, study, 2 * LEASE + 60)


def test_seconds_of_who_worked_beside_a_silent_worker_count_to_its_own_end(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 9, budget_seconds=1000.0)
    one, silent = party(study, "one"), party(study, "silent")
    one.begin()
    silent.begin()
    one.work(4 * LEASE)
    one.complete()
    shift(500)
    assert_used(database, study, 4 * LEASE)
    assert let_expire(database) == 1
    assert_used(database, study, 4 * LEASE)


def test_seconds_go_on_at_a_resume_while_somebody_works(database: Database, party: Opener) -> None:
    study = make_study(database, 9, budget_seconds=100.0)
    one = party(study)
    one.begin()
    steer(database, study, StudyState.PAUSED)
    one.work(50)
    steer(database, study, StudyState.RUNNING)
    one.work(20)
    assert_used(database, study, 20)


def test_a_deletion_is_all_or_nothing(
    database: Database, party: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed half-way it has deleted nothing; done, the name is free in Optuna's tables too."""
    study = make_study(database, 2)
    one = party(study)
    one.finish_one()
    one.begin()
    one.writer.report(1, 0.5, {"loss": 0.25})

    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(optuna_rows, "delete_study", killed)
        with pytest.raises(SystemExit):
            studies.delete(database, study)
    assert ticket_states(database, study) == ["complete", "running"]
    one.writer.report(2, 0.6, {"loss": 0.2})
    studies.delete(database, study)
    studies.delete(database, study)
    left = {
        table.name: database.read(lambda c, t=table: c.scalar(sa.select(sa.func.count()).select_from(t)))
        for table in (*models.BaseModel.metadata.sorted_tables, ticket, attempt, metric)
        if table.name != "version_info"
    }
    assert set(left.values()) == {0}, left
    assert make_study(database, 1).id


def test_two_extensions_of_a_grid_never_add_the_same_cells(database: Database) -> None:
    """The second was computed for the tickets the first has added meanwhile: it must be computed anew."""
    cells = [{"x": 0.1}, {"x": 0.2}]
    study = make_study(database, [{"x": 0.0}], cells=True)

    def extend() -> bool:
        return database.write(lambda c: studies.extend(c, study.id, cells, cells=True, first=1))

    assert extend()
    assert not extend()
    assert len(ticket_states(database, study)) == 3


@pytest.mark.parametrize("url", ["sqlite"], indirect=True, scope="module")
def test_where_a_space_is_used_up_its_end_and_its_report_say_so(
    make_study: Any, open_runner: Any, doing: Any, database: Database
) -> None:
    space = {"n": {"type": "int", "low": 1, "high": 3}}
    study = make_study(space=space, budget={"trials": 9})
    doing(lambda trial: float(trial.params["n"]))
    runner = open_runner(study)
    for said in ("", "", "Every one of the 3 settings of its space was tried."):
        assert runner.run_one().state == "complete"
        told = summarize(reading.history(database, study.name)).sentences
        assert (said in told) if said else not any("Every one" in one for one in told)
    ended = steering.has_ended(reading.get_study(database, study.name))
    assert "study is finished: all trials done, which was every setting of its space; `hpo extend" in ended
