"""Whether the setting or the worker is at fault, where a setting is tried on several workers."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from storage.database.engine import Database
from storage.database.records import Claim, StudyRow, WorkerState
from storage.database.tables import study as table
from storage.database.tables import worker
from storage.queue import outcomes, studies
from storage.queue.blame import BAD_START, BLAMED
from tests.support.clock import shift
from tests.support.shared import Opener, Party, make_study, ticket_states


def standing(database: Database, party: Party) -> tuple[str, str | None]:
    row = database.read(
        lambda connection: connection.execute(
            sa.select(worker.c.state, worker.c.reason).where(worker.c.id == party.id)
        ).one()
    )
    return row.state, row.reason


def fails_here_and_succeeds_there(study: StudyRow, here: Party, there: Party, times: int) -> None:
    """`here` fails `times` settings, and `there` brings a result for each."""
    for _ in range(times):
        failed = here.claim()
        here.start(failed)
        here.writer.fail("OSError: the disk of this machine")
        done = there.claim()
        assert done.number == failed.number
        there.start(done)
        there.complete()


def test_a_worker_on_which_settings_fail_that_succeed_elsewhere_is_quarantined(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 10, retry_failed=1)
    bad, good = party(study, "bad"), party(study, "good")
    bad.finish_one()
    fails_here_and_succeeds_there(study, bad, good, BLAMED)
    assert standing(database, bad) == (
        WorkerState.QUARANTINED,
        f"{BLAMED} settings that failed here succeeded on other workers",
    )
    assert standing(database, good) == (WorkerState.ACTIVE, None)
    refused = bad.try_claim()
    assert not isinstance(refused, Claim)
    assert refused.fault


def test_a_worker_that_mostly_succeeds_is_not_blamed_for_single_failures(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 20, retry_failed=1)
    mostly, other = party(study, "mostly"), party(study, "other")
    for _ in range(BLAMED + 1):
        mostly.finish_one()
    fails_here_and_succeeds_there(study, mostly, other, BLAMED + 1)
    assert standing(database, mostly) == (WorkerState.ACTIVE, None)


def test_a_setting_that_fails_everywhere_is_at_fault(database: Database, party: Opener) -> None:
    study = make_study(database, 6, retry_failed=1)
    one, two = party(study, "one"), party(study, "two")
    for each in (one, two):
        each.finish_one()
    for _ in range(BLAMED):
        for each in (one, two):
            each.begin()
            each.writer.fail("ValueError: this setting")
    assert ticket_states(database, study).count("failed") == BLAMED
    assert standing(database, one) == standing(database, two) == (WorkerState.ACTIVE, None)


def test_what_goes_over_the_studys_limits_is_no_workers_fault(database: Database, party: Opener) -> None:
    """Though all that it began with failed: those settings would go over anywhere. Where they succeed,
    once the study allows more, that speaks not against it.
    """
    study = make_study(database, BAD_START + BLAMED)
    one, two = party(study, "one"), party(study, "two")
    for _ in range(BAD_START):
        claim, _ = one.begin()
        over = partial(outcomes.fail, lease=claim.lease, error="over", blames=False)
        database.write(over)
    assert standing(database, one) == (WorkerState.ACTIVE, None)
    assert ticket_states(database, study).count("failed") == BAD_START
    database.write(lambda c: studies.retry_failed(c, study.id))
    for _ in range(BAD_START):
        two.finish_one()
    database.write(lambda c: c.execute(table.update().values(retry_failed=1)))
    fails_here_and_succeeds_there(study, one, two, BLAMED - 1)
    assert standing(database, one) == (WorkerState.ACTIVE, None)


def test_what_failed_on_two_workers_that_are_found_at_fault_at_once_is_given_back(
    database: Database, party: Opener
) -> None:
    """Neither is in good standing: what one of them failed speaks as little for the setting as the other."""
    study = make_study(database, None, retry_failed=2)
    bad, worse, good = (party(study, name) for name in ("bad", "worse", "good"))
    bad.finish_one()
    worse.finish_one()

    def fail(one: Party) -> int:
        claim, _ = one.begin()
        one.writer.fail("OSError: the disk of this machine")
        shift(2)  # over the pause before the next attempt
        return claim.number

    assert fail(bad) == fail(worse) == fail(bad)
    assert ticket_states(database, study)[2] == "failed"
    for _ in range(BLAMED):
        assert fail(bad) == fail(worse) == good.finish_one().number
    assert standing(database, bad)[0] == standing(database, worse)[0] == WorkerState.QUARANTINED
    assert ticket_states(database, study)[2] == "queued"


def test_what_failed_on_a_worker_comes_to_it_last(database: Database, party: Opener) -> None:
    study = make_study(database, 3, retry_failed=1)
    one, two = party(study, "one"), party(study, "two")
    one.begin()
    one.writer.fail("ValueError: here")
    assert [one.claim(runner).number for runner in (0, 1)] == [1, 2]
    assert two.claim().number == 0
