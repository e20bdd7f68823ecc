"""What ends a study, and what does not."""

from __future__ import annotations

from storage import studies
from storage.blame import BAD_START
from storage.engine import Database
from storage.records import NothingToClaim, StudyState, TicketState
from tests.support.shared import Opener, make_study, state_of, steer, ticket_states


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
    database.clock.offset += 11
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


def test_two_extensions_of_a_grid_never_add_the_same_cells(database: Database) -> None:
    """The second was computed for the tickets the first has added meanwhile: it must be computed anew."""
    cells = [{"x": 0.1}, {"x": 0.2}]
    study = make_study(database, [{"x": 0.0}], cells=True)

    def extend() -> bool:
        return database.write(
            lambda c: studies.extend(c, database.clock, study.id, cells, cells=True, first=1)
        )

    assert extend()
    assert not extend()
    assert len(ticket_states(database, study)) == 3
