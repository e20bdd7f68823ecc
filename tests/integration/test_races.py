"""Two meet on one row: the second is seen to wait, and there is one legal end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from storage.database.engine import Database
from storage.database.errors import LeaseLostError
from storage.database.records import Claim, KeptFile, NothingToClaim, StudyRow, StudyState, TicketState
from storage.files import kept_files
from storage.queue import leases, outcomes, rungs, studies, workers
from storage.queue.outcomes import Result
from storage.queue.rungs import Rung
from tests.integration.conftest import Stage
from tests.support.claims import claim_next
from tests.support.clock import shift
from tests.support.shared import (
    LEASE,
    Opener,
    Party,
    attempts_of,
    make_study,
    state_of,
    steer,
    ticket_row,
    ticket_states,
)

pytestmark = pytest.mark.postgres


def claiming(one: Party) -> Any:
    """The claim of one party, to be run in a transaction that a test holds open."""

    def verb(connection: Any) -> Claim | NothingToClaim:
        return claim_next(connection, one.study.id, one.id, 0, "cpu", LEASE)

    return verb


def delivering(one: Party, claim: Claim) -> Any:
    """One party's result, to be delivered in a transaction that a test holds open."""

    def verb(connection: Any) -> None:
        leases.hold(connection, {claim.lease}, ending={claim.lease})
        outcomes.deliver(connection, [Result(claim.lease, TicketState.COMPLETE, (1.0,))])

    return verb


def test_two_claims_at_once_get_two_tickets(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 2)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)) as first:
        later = stage.start(other.claim)
        stage.wait_until_blocked()
    assert {first.number, later.result(120).number} == {0, 1}


def test_two_claims_of_the_last_ticket_get_one(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 1)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)) as first:
        later = stage.start(other.try_claim)
        stage.wait_until_blocked()
    assert isinstance(first, Claim)
    assert isinstance(later.result(120), NothingToClaim)


def test_without_a_budget_two_claims_make_two_tickets(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, None, budget_seconds=1000.0)
    one, other = party(study), party(study)
    with stage.holding(one.database, claiming(one)) as first:
        later = stage.start(other.claim)
        stage.wait_until_blocked()
    assert {first.number, later.result(120).number} == {0, 1}


def test_a_cancel_that_comes_first_refuses_the_result(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 1)
    one = party(study)
    claim, _ = one.begin()
    with stage.holding(database, lambda c: studies.cancel(c, study.id)):
        later = stage.start(one.complete)
        stage.wait_until_blocked()
    with pytest.raises(LeaseLostError):
        later.result(120)
    assert attempts_of(database, claim.lease) == ["cancelled"]


def test_a_result_that_comes_first_is_not_cancelled(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 2)
    one = party(study)
    claim, _ = one.begin()

    with stage.holding(one.database, delivering(one, claim)):
        later = stage.start(lambda: database.write(lambda c: studies.cancel(c, study.id)))
        stage.wait_until_blocked()
    assert later.result(120) == (0, 0)
    assert attempts_of(database, claim.lease) == ["complete"]


def test_a_pause_that_comes_first_leaves_nothing_to_claim(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 2)
    one = party(study)
    with stage.holding(database, lambda c: studies.set_state(c, study.id, StudyState.PAUSED)):
        later = stage.start(one.try_claim)
        stage.wait_until_blocked()
    assert isinstance(later.result(120), NothingToClaim)
    assert ticket_states(database, study) == ["queued", "queued"]


def test_a_claim_that_comes_first_runs_through_the_pause(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 2)
    one = party(study)
    with stage.holding(one.database, claiming(one)) as claim:
        later = stage.start(
            lambda: database.write(lambda c: studies.set_state(c, study.id, StudyState.PAUSED))
        )
        stage.wait_until_blocked()
    assert later.result(120) is StudyState.PAUSED
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
    later.result(120)
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
    later.result(120)
    assert ticket_states(database, study) == ["complete", "queued"]
    assert isinstance(one.try_claim(), Claim)
    assert state_of(database, study) is StudyState.RUNNING


def test_a_renewal_that_comes_first_saves_the_lease(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 1)
    one = party(study)
    claim = one.claim()
    shift(LEASE + 1)
    with stage.holding(one.database, lambda c: leases.renew(c, one.id, LEASE)):
        # A reaper does not wait for what others hold: it leaves the ticket for the next time.
        assert database.write(lambda c: leases.reap_expired(c, leases.Sight())) == 0
    assert database.write(lambda c: leases.reap_expired(c, leases.Sight())) == 0
    assert attempts_of(database, claim.lease) == ["running"]


def test_a_reaper_that_comes_first_leaves_nothing_to_renew(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 1)
    one = party(study)
    claim = one.claim()
    shift(LEASE + 1)
    with stage.holding(database, lambda c: leases.reap_expired(c, leases.Sight())) as reaped:
        later = stage.start(lambda: one.database.write(lambda c: leases.renew(c, one.id, LEASE)))
        stage.wait_until_blocked()
    assert reaped == 1
    assert later.result(120) == []
    assert ticket_row(database, claim.lease).state == TicketState.QUEUED


def test_two_reapers_count_a_lost_attempt_once(database: Database, party: Opener, stage: Stage) -> None:
    study = make_study(database, 2)
    one, other = party(study), party(study)
    claim = one.claim()
    other.claim()
    shift(LEASE + 1)
    with stage.holding(database, lambda c: leases.reap_expired(c, leases.Sight())) as first:
        assert other.database.write(lambda c: leases.reap_expired(c, leases.Sight())) == 0
    assert first == 2
    assert ticket_row(database, claim.lease).lost == 1


def test_a_reached_target_beside_a_claim_starts_nothing_new(
    database: Database, party: Opener, stage: Stage
) -> None:
    study = make_study(database, 5, budget_target=0.9)
    one, other = party(study), party(study)
    claim, _ = one.begin()

    def deliver(connection: Any) -> None:
        leases.hold(connection, {claim.lease}, ending={claim.lease})
        outcomes.deliver(connection, [Result(claim.lease, TicketState.COMPLETE, (0.95,))])

    with stage.holding(one.database, deliver):
        later = stage.start(other.try_claim)
        stage.wait_until_blocked()
    assert isinstance(later.result(120), NothingToClaim)
    assert ticket_states(database, study) == ["complete"] + ["queued"] * 4


LAST: dict[str, Callable[[Party, Database], Any]] = {
    "result": lambda one, _: one.complete(),
    "failure": lambda one, _: one.writer.fail("ValueError: no"),
    "drain of a stopping study": lambda one, _: one.writer.release("drained"),
    "dead runner": lambda one, database: database.write(
        lambda c: leases.while_held(
            c,
            one.writer.lease,
            partial(outcomes.lose, lease=one.writer.lease, why="died"),
        )
    ),
}


@pytest.mark.parametrize("last", LAST)
def test_the_last_two_ends_at_once_end_the_study(
    database: Database, party: Opener, stage: Stage, last: str
) -> None:
    """The second waits for the first, and sees that nothing runs any more."""
    study = make_study(database, 2, retry_lost=0)
    one, other = party(study), party(study)
    claim, _ = one.begin()
    other.begin()
    by_hand = last.startswith("drain")
    if by_hand:
        database.write(lambda c: studies.set_state(c, study.id, StudyState.STOPPING))
    with stage.holding(one.database, delivering(one, claim)):
        later = stage.start(lambda: LAST[last](other, other.database))
        stage.wait_until_blocked()
    later.result(120)
    assert state_of(database, study) is (StudyState.STOPPED if by_hand else StudyState.FINISHED)


WAKE: dict[str, Callable[[Any, Database, StudyRow], Any]] = {
    "retry": lambda c, database, study: studies.retry_failed(c, study.id),
    "retry of one trial": lambda c, database, study: studies.retry_failed(c, study.id, 0),
    "extend": lambda c, database, study: studies.extend(c, study.id, [None], cells=False),
}


@pytest.mark.parametrize("first", ["the end", "the verb"])
@pytest.mark.parametrize("verb", WAKE)
def test_a_verb_that_queues_tickets_beside_the_studys_end_strands_none(
    database: Database, party: Opener, stage: Stage, verb: str, first: str
) -> None:
    """One failed, the other brings the last result: whichever commits first, what is queued runs."""
    study = make_study(database, 2)
    one, other = party(study), party(study)
    one.begin()
    one.writer.fail("ValueError: no")
    claim, _ = other.begin()

    def wake(connection: Any) -> Any:
        return WAKE[verb](connection, database, study)

    if first == "the end":
        with stage.holding(other.database, delivering(other, claim)):
            later = stage.start(lambda: database.write(wake))
            stage.wait_until_blocked()
    else:
        with stage.holding(database, wake):
            later = stage.start(other.complete)
            stage.wait_until_blocked()
    later.result(120)
    assert "queued" in ticket_states(database, study)
    assert state_of(database, study) is StudyState.RUNNING
    assert one.claim()


ENDS: dict[str, Callable[[Any, Database, Party, StudyRow], Any]] = {
    "cancel": lambda c, database, _, study: studies.cancel(c, study.id),
    "stop": lambda c, database, _, study: studies.set_state(c, study.id, StudyState.STOPPING),
    "retry": lambda c, database, _, study: studies.retry_failed(c, study.id),
    "extend": lambda c, database, _, study: studies.extend(c, study.id, [None], cells=False),
    "enqueue": lambda c, _, __, study: studies.enqueue(c, study.id, {"x": 0.5}, "ada"),
    "claim": lambda c, database, one, study: claim_next(c, study.id, one.id, 1, "cpu", LEASE),
}


@pytest.mark.parametrize("verb", ENDS)
def test_who_holds_a_ticket_alone_never_waits_for_who_holds_the_study(
    database: Database, party: Opener, stage: Stage, verb: str
) -> None:
    """A report with a file: it has the ticket, and adds a row that names the study, which another holds.

    Everybody takes the study first, so there is no circle, and nobody is ended by the server.
    """
    study = make_study(database, 3)
    one, other = party(study, "one"), party(study, "other")
    claim, trial = one.begin()
    file = KeptFile("model.pt", "somewhere", "0" * 64, 1)

    def hold(connection: Any) -> Any:
        leases.hold(connection, {claim.lease})
        return connection

    with stage.holding(one.database, hold) as connection:
        later = stage.start(
            lambda: other.database.write(lambda c: ENDS[verb](c, other.database, other, study))
        )
        if verb == "cancel":
            stage.wait_until_blocked()
        else:
            later.result(120)
        kept_files.record(connection, study.id, trial.id, claim.lease.attempt, file)
    later.result(120)
    assert database.read(lambda c: kept_files.names_of(c, trial.id)) == {"model.pt"}


def test_a_burial_waits_for_nobody(database: Database, party: Opener, stage: Stage) -> None:
    """It runs inside a heartbeat, which holds a worker's row; the study is another's now."""
    study = make_study(database, 2)
    one, other = party(study, "one"), party(study, "other")
    claim, _ = one.begin()
    held, _ = other.begin()
    with stage.holding(other.database, delivering(other, held)):
        assert database.write(lambda c: workers.bury(c, one.id)) == 0
    assert database.write(lambda c: workers.bury(c, one.id)) == 1, "the next who looks"
    assert ticket_row(database, claim.lease).state == TicketState.QUEUED


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
    """A result takes the study before its ticket, as the deletion does."""
    study = make_study(database, 1)
    one = party(study)
    claim, _ = one.begin()
    one.database.patience.endless = True

    with stage.holding(one.database, lambda c: leases.hold(c, {claim.lease})) as _:
        later = stage.start(lambda: studies.delete(database, study))
        stage.wait_until_blocked()
    later.result(120)
    with pytest.raises(LeaseLostError):
        one.complete()


def test_a_rung_that_is_committed_after_later_ones_is_told_too(
    database: Database, party: Opener, stage: Stage
) -> None:
    """Reports of different trials wait for nobody, so rows do not appear in the order they were written."""
    study = make_study(database, 2)
    one = party(study)

    def write(number: int) -> Callable[[Any], None]:
        return lambda c: rungs.write(c, study.id, [Rung(number, 0, 0, 1, number / 10)])

    with stage.holding(one.database, write(0)):
        database.write(write(1))
        seen, found = database.read(lambda c: rungs.newer(c, study.id, 0))
        assert [row.trial_id for row in found] == [1]
    _, found = database.read(lambda c: rungs.newer(c, study.id, seen))
    assert 0 in [row.trial_id for row in found]


def test_a_look_that_finds_nothing_waits_for_nobody(database: Database, party: Opener, stage: Stage) -> None:
    """The last ticket's result is being written, which holds the study; an idle worker holds up nothing."""
    study = make_study(database, 1)
    one, other = party(study), party(study)
    claim, _ = one.begin()
    with stage.holding(one.database, delivering(one, claim)):
        nothing = stage.start(other.try_claim).result(120)
    assert nothing == NothingToClaim(ended=False, why="every trial is done or running elsewhere")


def test_a_pause_among_32_claiming_workers_comes_in_its_turn(
    database: Database, party: Opener, stage: Stage
) -> None:
    """It waits for those who asked before it, and is not starved by those who ask again.

    Not exactly one claim each: PostgreSQL gives a row that nobody holds to who asks, though others are just
    waking up to take it, which on a busy machine takes long. Where who asks again came first, all 5,000
    would be claimed.
    """
    study = make_study(database, 5_000)
    first, *parties = [party(study, f"w{number}") for number in range(33)]
    claims = [0] * len(parties)

    def work(number: int) -> None:
        while isinstance(parties[number].try_claim(runner=claims[number]), Claim):
            claims[number] += 1

    with ThreadPoolExecutor(len(parties)) as pool:
        with stage.holding(first.database, claiming(first)):
            done = [pool.submit(work, number) for number in range(len(parties))]
            stage.wait_until_blocked(len(parties))
            pause = stage.start(lambda: steer(database, study, StudyState.PAUSED))
            stage.wait_until_blocked(len(parties) + 1)
        assert pause.result(120) is StudyState.PAUSED
        for one in done:
            one.result(120)
    assert sum(claims) < 2_500
    assert ticket_states(database, study).count("running") == sum(claims) + 1
