"""Tickets: one live lease each, an exact budget, exact ends."""

from __future__ import annotations

from functools import partial

import optuna
import pytest
import sqlalchemy as sa

from storage.database import optuna_tables
from storage.database.clock import read_now
from storage.database.engine import Database
from storage.database.errors import StudyExistsError
from storage.database.records import NothingToClaim, StudyState, TicketState, WorkerState
from storage.database.tables import ticket
from storage.queue import leases, studies, workers
from tests.support.clock import shift
from tests.support.shared import (
    LEASE,
    Opener,
    let_expire,
    lose,
    make_study,
    state_of,
    steer,
    ticket_row,
    ticket_states,
)


def nothing(found: object) -> NothingToClaim:
    assert isinstance(found, NothingToClaim), found
    return found


def test_two_claims_get_two_tickets(database: Database, party: Opener) -> None:
    study = make_study(database, 2)
    first, second = party(study), party(study)
    assert first.claim().lease.ticket_id != second.claim().lease.ticket_id


def test_tickets_are_claimed_in_order_and_asked_points_first(database: Database, party: Opener) -> None:
    study = make_study(database, [{"x": 0.1}, None, None], enqueued=1)
    database.write(lambda connection: studies.enqueue(connection, study.id, {"x": 0.9}, "ada"))
    one = party(study)
    assert [one.claim(runner).point for runner in range(3)] == [{"x": 0.1}, {"x": 0.9}, {}]


def test_a_claim_whose_answer_was_lost_is_found_again(database: Database, party: Opener) -> None:
    """The runner asks again and gets the same lease, not a second ticket."""
    one = party(make_study(database, 2))
    assert one.claim() == one.claim()


def test_each_slot_of_a_runner_has_a_ticket_of_its_own(database: Database, party: Opener) -> None:
    one = party(make_study(database, 2))
    held = [one.claim(slot=slot) for slot in range(2)]
    assert [claim.number for claim in held] == [0, 1]
    assert [one.claim(slot=slot) for slot in range(2)] == held


def test_no_more_trials_than_tickets(database: Database, party: Opener) -> None:
    study = make_study(database, 2)
    one, other = party(study), party(study)
    one.begin()
    other.begin()
    assert not nothing(party(study).try_claim()).ended
    one.complete()
    assert state_of(database, study) is StudyState.RUNNING
    other.complete()
    assert state_of(database, study) is StudyState.FINISHED
    assert nothing(one.try_claim()).ended


def test_a_study_without_a_budget_of_trials_makes_tickets_as_they_are_claimed(
    database: Database, party: Opener
) -> None:
    study = make_study(database, None, budget_seconds=100.0)
    one = party(study)
    assert [one.finish_one().number for _ in range(3)] == [0, 1, 2]


def test_the_budget_of_seconds_ends_the_study(database: Database, party: Opener) -> None:
    study = make_study(database, None, budget_seconds=100.0)
    one = party(study)
    one.begin()
    one.work(101)
    assert not nothing(party(study).try_claim()).ended, "what runs goes on"
    one.complete()
    assert state_of(database, study) is StudyState.FINISHED


def test_seconds_do_not_count_while_paused(database: Database, party: Opener) -> None:
    study = make_study(database, None, budget_seconds=100.0)
    one = party(study)
    one.begin()
    one.work(60)
    steer(database, study, StudyState.PAUSED)
    one.work(1000)
    steer(database, study, StudyState.RUNNING)
    one.work(10)
    one.complete()
    one.begin()
    one.work(45)
    assert nothing(party(study).try_claim())


def test_a_reached_target_lets_what_runs_finish_and_starts_nothing(database: Database, party: Opener) -> None:
    study = make_study(database, 5, budget_target=0.9)
    one, other = party(study), party(study)
    other.begin()
    one.finish_one(0.95)
    assert nothing(one.try_claim())
    assert state_of(database, study) is StudyState.STOPPING
    other.complete(0.1)
    row = database.read(lambda connection: studies.get(connection, study.name))
    assert (row.state, row.ended_why) == (StudyState.FINISHED, "target reached")
    assert ticket_states(database, study) == ["complete", "complete", "queued", "queued", "queued"]


def test_a_paused_study_gives_nothing_and_keeps_what_runs(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    one.begin()
    steer(database, study, StudyState.PAUSED)
    assert not nothing(party(study).try_claim()).ended
    one.complete()
    steer(database, study, StudyState.RUNNING)
    assert one.claim()


def test_stop_ends_when_nothing_runs_and_resume_goes_on(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    one.begin()
    assert steer(database, study, StudyState.STOPPING) is StudyState.STOPPING
    one.complete()
    assert state_of(database, study) is StudyState.STOPPED
    assert nothing(one.try_claim()).ended
    steer(database, study, StudyState.RUNNING)
    assert one.claim()


def test_cancel_takes_every_lease_away(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    claim, _ = one.begin()
    count = database.write(lambda connection: studies.cancel(connection, study.id))
    assert count == (1, 0)
    assert ticket_row(database, claim.lease).state == TicketState.CANCELLED
    assert state_of(database, study) is StudyState.STOPPED


def test_extend_adds_exactly_so_many_and_wakes_a_finished_study(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one = party(study)
    one.finish_one()
    database.write(lambda c: studies.extend(c, study.id, [None, None], cells=False))
    assert [one.finish_one().number for _ in range(2)] == [1, 2]
    assert nothing(one.try_claim()).ended


def test_retry_gives_failed_tickets_a_new_trial(database: Database, party: Opener) -> None:
    """Optuna's finished trials cannot be reopened, so the ticket gets a new one that names the old."""
    study = make_study(database, 1)
    one = party(study)
    _, trial = one.begin()
    one.writer.fail("Traceback: boom")
    assert state_of(database, study) is StudyState.FINISHED
    assert database.write(lambda connection: studies.retry_failed(connection, study.id)) == 1
    again = one.claim()
    assert (again.trial_id, again.retry_of) == (None, trial.number)


def test_an_enqueued_point_never_adds_to_a_spent_budget(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    party(study).finish_one()
    assert database.write(lambda connection: studies.enqueue(connection, study.id, {"x": 0.5}, "ada")) is None


def test_a_lost_attempt_is_tried_again_after_a_growing_pause(database: Database, party: Opener) -> None:
    """So that a broken machine cannot burn the queue."""
    study = make_study(database, 1, retry_lost=9)
    one = party(study)
    pauses = []
    for _ in range(5):
        lease = one.claim().lease
        lose(database, lease)
        row = ticket_row(database, lease)
        now = database.read(read_now)
        pause = 0.0 if row.not_before is None else row.not_before - now
        pauses.append(round(pause))
        if pause:
            assert nothing(one.try_claim())
        shift(pause + 0.01)
    assert pauses == [0, 1, 2, 4, 8]


def test_one_failed_trial_is_retried_and_the_others_stay(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    for _ in range(3):
        one.begin()
        one.writer.fail("boom")
    retry = partial(studies.retry_failed, study_id=study.id, trial=1)
    assert database.write(retry) == 1
    assert ticket_states(database, study) == ["failed", "queued", "failed"]
    assert state_of(database, study) is StudyState.RUNNING
    assert database.write(retry) == 0, "its ticket waits already"
    assert one.claim().retry_of == 1


def test_attempts_are_capped(database: Database, party: Opener) -> None:
    study = make_study(database, 1, retry_lost=2)
    one = party(study)
    for _ in range(3):
        lease = one.claim().lease
        lose(database, lease)
        shift(60)
    assert ticket_row(database, lease).state == TicketState.FAILED
    assert nothing(one.try_claim()).ended


def test_a_trial_that_is_lost_again_and_again_goes_on_as_long_as_it_gets_further(
    database: Database, party: Opener
) -> None:
    """A machine that is preempted every hour finishes a training of ten, whatever `retry.lost` is."""
    study = make_study(database, 1, retry_lost=2)
    one = party(study)
    for attempt in range(1, 12):
        claim, _ = one.begin()
        assert claim.lease.attempt == attempt
        if attempt < 10:  # then it gets no further
            one.writer.checkpoint_advanced()
        lose(database, claim.lease)
        shift(60)
    assert ticket_row(database, claim.lease).state == TicketState.FAILED


def test_an_open_budget_stops_a_worker_that_was_quarantined(database: Database, party: Opener) -> None:
    study = make_study(database, 10)
    one = party(study)
    for _ in range(5):
        one.begin()
        one.writer.fail("ImportError: no module named nothing")
    assert nothing(one.try_claim()).ended
    row = next(row for row in database.read(lambda c: workers.all_workers(c)) if row.id == one.id)
    assert row.state is WorkerState.QUARANTINED
    assert "ImportError" in str(row.reason)


def test_what_failed_on_a_quarantined_worker_alone_is_given_to_others(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 5)
    broken, sound = party(study, "broken"), party(study, "sound")
    for _ in range(5):
        broken.begin()
        broken.writer.fail("RuntimeError: driver too old")
    for _ in range(5):
        sound.finish_one()
    assert ticket_states(database, study) == ["complete"] * 5
    assert state_of(database, study) is StudyState.FINISHED


def test_a_name_is_taken_once(database: Database) -> None:
    make_study(database, 1)
    with pytest.raises(StudyExistsError, match=r"^a study named study exists already$"):
        make_study(database, 1)


def test_optunas_study_is_as_optuna_makes_one_and_its_own_is_taken_only_while_it_is_empty(
    database: Database,
) -> None:
    """It comes with ours or not at all."""
    both = ["minimize", "maximize"]
    row = make_study(database, 1, directions=both)
    theirs = optuna.create_study(storage=database.rdb, study_name="theirs", directions=both)
    made = optuna.load_study(storage=database.rdb, study_name="study")
    assert (made._study_id, made.directions) == (row.optuna_study_id, theirs.directions)
    with database.transaction(write=False) as connection:
        columns = [column for column in optuna_tables.study_directions.c if column.name[-3:] != "_id"]
        of = optuna_tables.study_directions.c.study_id
        ours, its = (
            connection.execute(sa.select(*columns).where(of == one._study_id).order_by(*columns)).all()
            for one in (made, theirs)
        )
    assert ours == its
    with pytest.raises(StudyExistsError, match="Optuna study named theirs with 0 trials"):
        make_study(database, 1, name="theirs", directions=["minimize"])
    assert make_study(database, 1, name="theirs", directions=both).optuna_study_id == theirs._study_id

    foreign = optuna.create_study(storage=database.rdb, study_name="foreign", direction="maximize")
    foreign.ask()
    with pytest.raises(StudyExistsError, match="Optuna study named foreign with 1 trials"):
        make_study(database, 1, name="foreign")
    with pytest.raises(TypeError, match="not JSON serializable"):
        make_study(database, [{"x": object()}], name="broken")
    assert "broken" not in optuna.get_all_study_names(database.rdb)


def test_a_deleted_study_takes_its_leases_with_it(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one = party(study)
    one.begin()
    studies.delete(database, study)
    assert nothing(one.try_claim()).ended
    left = database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(ticket)))
    assert left == 0


def test_a_silent_worker_is_shown_as_lost_and_comes_back(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one = party(study)
    shift(3 * LEASE)
    database.write(lambda connection: workers.mark_silent(connection, leases.Sight()))

    def state() -> WorkerState:
        return database.read(lambda c: workers.all_workers(c))[0].state

    assert state() is WorkerState.LOST
    database.write(lambda connection: workers.beat(connection, one.id, {}))
    assert state() is WorkerState.ACTIVE


def test_a_worker_that_signed_off_is_not_taken_for_dead(database: Database, party: Opener) -> None:
    """A neighbour may see its process end before it has read that the worker left."""
    one = party(make_study(database, 1))
    database.write(lambda c: workers.sign_off(c, one.id))
    database.write(lambda c: workers.bury(c, one.id))
    (row,) = database.read(lambda c: workers.all_workers(c))
    assert row.state is WorkerState.LEFT


def test_two_workers_of_one_name_are_two(database: Database, party: Opener) -> None:
    """Burying one of them frees its ticket alone."""
    study = make_study(database, 2)
    one, other = party(study, "gpu-a"), party(study, "gpu-a")
    first, second = one.claim(), other.claim()
    assert database.write(lambda c: workers.bury(c, one.id)) == 1
    assert ticket_row(database, first.lease).state == TicketState.QUEUED
    assert ticket_row(database, second.lease).state == TicketState.RUNNING


def test_an_expired_lease_goes_to_the_next_worker(database: Database, party: Opener) -> None:
    """The trial keeps its number and parameters; the attempt gets a new number."""
    study = make_study(database, 1)
    one, other = party(study), party(study)
    claim, trial = one.begin()
    assert let_expire(database) == 1
    taken = other.claim()
    assert taken.trial_number == trial.number
    assert taken.lease.attempt == claim.lease.attempt + 1
    assert other.database.rdb.get_trial(trial.id).params == {"x": 0.5}
