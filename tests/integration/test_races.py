"""Two meet on one row: the second is seen to wait, and there is one legal end."""

from __future__ import annotations

from typing import Any

import pytest

from storage import leases, outcomes, studies, tickets
from storage.engine import Database
from storage.errors import LeaseLostError
from storage.records import Claim, NothingToClaim, StudyState, TicketState
from tests.integration.conftest import Stage
from tests.support.shared import (
    LEASE,
    Opener,
    Party,
    attempts_of,
    make_study,
    state_of,
    ticket_row,
    ticket_states,
)

pytestmark = pytest.mark.postgres


def claiming(one: Party) -> Any:
    """The claim of one party, to be run in a transaction that a test holds open."""

    def verb(connection: Any) -> Claim | NothingToClaim:
        return tickets.claim_next(connection, one.database.clock, one.study.id, one.id, 0, "cpu", LEASE)

    return verb


def test_two_claims_at_once_get_two_tickets(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 2)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)) as first:
        later = stage.start(other.claim)
        stage.wait_until_blocked()
    assert {first.number, later.result(20).number} == {0, 1}


def test_two_claims_of_the_last_ticket_get_one(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 1)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)) as first:
        later = stage.start(other.try_claim)
        stage.wait_until_blocked()
    assert isinstance(first, Claim)
    assert isinstance(later.result(20), NothingToClaim)


def test_without_a_budget_two_claims_make_two_tickets(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, None, budget_seconds=1000.0)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)) as first:
        later = stage.start(other.claim)
        stage.wait_until_blocked()
    assert {first.number, later.result(20).number} == {0, 1}


def test_a_cancel_that_comes_first_refuses_the_result(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 1)
    one = party(study)
    claim, _ = one.begin()
    with stage.holding(database, lambda c: studies.cancel_running(c, database.clock, study.id)):
        later = stage.start(one.complete)
        stage.wait_until_blocked()
    with pytest.raises(LeaseLostError):
        later.result(20)
    assert attempts_of(database, claim.lease) == ["cancelled"]


def test_a_result_that_comes_first_is_not_cancelled(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 2)
    one = party(study)
    claim, _ = one.begin()

    def deliver(connection: Any) -> None:
        leases.check(connection, claim.lease)
        outcomes.deliver(connection, database.clock, claim.lease, TicketState.COMPLETE, (1.0,))

    with stage.holding(one.database, deliver):
        later = stage.start(
            lambda: database.write(lambda c: studies.cancel_running(c, database.clock, study.id))
        )
        stage.wait_until_blocked()
    assert later.result(20) == 0
    assert attempts_of(database, claim.lease) == ["complete"]


def test_a_pause_that_comes_first_leaves_nothing_to_claim(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 2)
    one = party(study)
    with stage.holding(database, lambda c: studies.set_state(c, database.clock, study.id, StudyState.PAUSED)):
        later = stage.start(one.try_claim)
        stage.wait_until_blocked()
    assert isinstance(later.result(20), NothingToClaim)
    assert ticket_states(database, study) == ["queued", "queued"]


def test_a_claim_that_comes_first_runs_through_the_pause(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 2)
    one = party(study)
    with stage.holding(one.database, claiming(one)) as claim:
        later = stage.start(
            lambda: database.write(
                lambda c: studies.set_state(c, database.clock, study.id, StudyState.PAUSED)
            )
        )
        stage.wait_until_blocked()
    assert later.result(20) is StudyState.PAUSED
    one.start(claim)
    one.complete()
    assert attempts_of(database, claim.lease) == ["complete"]


def test_extending_beside_a_claim_of_the_last_ticket_loses_neither(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 1)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)):
        later = stage.start(
            lambda: database.write(lambda c: studies.extend(c, study.id, [None, None], cells=False))
        )
        stage.wait_until_blocked()
    later.result(20)
    assert ticket_states(database, study) == ["running", "queued", "queued"]
    assert other.claim().number == 1


def test_extending_while_the_last_result_ends_the_study_wakes_it(
    database: Database, party: Opener, stage: Stage
) -> None:
    """The result and the extension meet on the study's row; whichever is first, the new tickets run."""
    study = make_study(database, 1)
    one = party(study)
    one.begin()
    with stage.holding(database, lambda c: studies.extend(c, study.id, [None], cells=False)):
        later = stage.start(one.complete)
        stage.wait_until_blocked()
    later.result(20)
    assert ticket_states(database, study) == ["complete", "queued"]
    assert isinstance(one.try_claim(), Claim)
    assert state_of(database, study) is StudyState.RUNNING


def test_a_renewal_that_comes_first_saves_the_lease(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 1)
    one = party(study)
    claim = one.claim()
    database.clock.offset += LEASE + 1
    with stage.holding(one.database, lambda c: leases.renew(c, database.clock, one.id, LEASE)):
        # A reaper does not wait for what others hold: it leaves the ticket for the next time.
        assert database.write(lambda c: leases.reap_expired(c, database.clock, leases.Sight())) == 0
    assert database.write(lambda c: leases.reap_expired(c, database.clock, leases.Sight())) == 0
    assert attempts_of(database, claim.lease) == ["running"]


def test_a_reaper_that_comes_first_leaves_nothing_to_renew(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 1)
    one = party(study)
    claim = one.claim()
    database.clock.offset += LEASE + 1
    with stage.holding(database, lambda c: leases.reap_expired(c, database.clock, leases.Sight())) as reaped:
        later = stage.start(
            lambda: one.database.write(lambda c: leases.renew(c, database.clock, one.id, LEASE))
        )
        stage.wait_until_blocked()
    assert reaped == 1
    assert later.result(20) == []
    assert ticket_row(database, claim.lease).state == TicketState.QUEUED


def test_two_reapers_count_a_lost_attempt_once(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 2)
    one, other = party(study), party(study)
    claim = one.claim()
    other.claim()
    database.clock.offset += LEASE + 1
    with stage.holding(database, lambda c: leases.reap_expired(c, database.clock, leases.Sight())) as first:
        assert other.database.write(lambda c: leases.reap_expired(c, database.clock, leases.Sight())) == 0
    assert first == 2
    assert ticket_row(database, claim.lease).lost == 1


def test_a_reached_target_beside_a_claim_starts_nothing_new(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 5, budget_target=0.9)
    one, other = party(study), party(study)
    claim, _ = one.begin()

    def deliver(connection: Any) -> None:
        leases.check(connection, claim.lease)
        outcomes.deliver(connection, database.clock, claim.lease, TicketState.COMPLETE, (0.95,))

    with stage.holding(one.database, deliver):
        later = stage.start(other.try_claim)
        stage.wait_until_blocked()
    assert isinstance(later.result(20), NothingToClaim)
    assert ticket_states(database, study) == ["complete"] + ["queued"] * 4


def test_the_last_two_results_at_once_end_the_study(database: Database, party: Opener, stage: Stage) -> None:
    """Each sees the other still running; whoever next finds nothing to claim ends the study."""
    study = make_study(database, 2)
    one, other = party(study), party(study)
    claim, _ = one.begin()
    other.begin()

    def deliver(connection: Any) -> None:
        leases.check(connection, claim.lease)
        outcomes.deliver(connection, database.clock, claim.lease, TicketState.COMPLETE, (1.0,))

    with stage.holding(one.database, deliver):
        stage.start(other.complete).result(20)
    assert isinstance(one.try_claim(), NothingToClaim)
    assert state_of(database, study) is StudyState.FINISHED


def test_a_deleted_study_beside_a_report_ends_in_a_lost_lease(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 1)
    one = party(study)
    one.begin()
    studies.delete(database, study)
    with pytest.raises(LeaseLostError, match="deleted"):
        one.writer.report(1, 0.5, {})


def test_deleting_a_study_while_a_result_comes_in_never_deadlocks(
    database: Database, party: Opener, stage: Stage
) -> None:
    """They take the same rows in opposite order; the server ends one, which tries again."""
    study = make_study(database, 1)
    one = party(study)
    claim, _ = one.begin()
    one.database.patience.endless = True

    with stage.holding(one.database, lambda c: leases.check(c, claim.lease)) as _:
        later = stage.start(lambda: studies.delete(database, study))
        stage.wait_until_blocked()
    later.result(30)
    with pytest.raises(LeaseLostError):
        one.complete()
