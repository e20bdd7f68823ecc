"""A trial that ran out of memory beside others is tried again with the card to itself."""

from __future__ import annotations

from storage.database.engine import Database
from storage.database.records import Claim, Need, NothingToClaim, StudyState, TicketState
from storage.queue import tickets
from tests.support.shared import (
    Opener,
    Party,
    attempts_of,
    lose,
    make_study,
    state_of,
    ticket_row,
    ticket_states,
)


def set_aside(one: Party, runner: int = 0) -> Claim:
    claim, _ = one.begin(runner)
    one.writer.set_aside("torch.OutOfMemoryError: CUDA out of memory", 1e9)
    return claim


def asked(one: Party, alone: bool | None) -> Claim | NothingToClaim:
    """Of a place on a card that is shared (None: that is not)."""
    takes = {None: None, False: (Need.NOTHING, Need.RUNNER), True: (Need.CARD,)}[alone]
    return one.try_claim(takes=takes)


def test_running_out_of_memory_beside_others_counts_against_nothing(
    database: Database, party: Opener
) -> None:
    """Neither the ticket nor the worker: five of them would quarantine it."""
    study = make_study(database, 6)
    one = party(study)
    claims = [set_aside(one) for _ in range(1)]
    row = ticket_row(database, claims[0].lease)
    assert (row.state, row.failed, row.alone) == (TicketState.QUEUED, 0, 1)
    assert attempts_of(database, claims[0].lease) == ["failed"]
    for _ in range(5):
        claim = asked(one, False)
        assert isinstance(claim, Claim)
        one.start(claim)
        one.writer.set_aside("CUDA out of memory")
    assert isinstance(asked(one, True), Claim), "it is not quarantined"


def test_a_card_that_others_use_gets_no_such_ticket_and_is_told_when_nothing_else_is_left(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 2)
    one = party(study)
    set_aside(one)
    other = asked(one, False)
    assert isinstance(other, Claim)
    assert not other.alone
    one.start(other)
    one.complete()
    left = asked(one, False)
    assert isinstance(left, NothingToClaim)
    assert (left.alone, left.ended) == (True, False)
    assert state_of(database, study) is StudyState.RUNNING


def test_a_study_without_a_budget_of_trials_does_not_pass_it_over_for_ever(
    database: Database, party: Opener
) -> None:
    """It could always make one more ticket instead."""
    one = party(make_study(database, None, budget_seconds=100.0))
    set_aside(one)
    left = asked(one, False)
    assert isinstance(left, NothingToClaim)
    assert left.alone


def test_a_card_to_itself_takes_only_what_needs_one(database: Database, party: Opener) -> None:
    study = make_study(database, 2)
    one = party(study)
    assert isinstance(asked(one, True), NothingToClaim)
    first = set_aside(one)
    claim = asked(one, True)
    assert isinstance(claim, Claim)
    assert (claim.lease.ticket_id, claim.alone) == (first.lease.ticket_id, True)


def test_a_worker_with_one_runner_a_card_may_claim_it_as_any_other(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    set_aside(party(study))
    claim = asked(party(study), None)
    assert isinstance(claim, Claim)
    assert claim.alone


def test_the_second_time_it_has_failed(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one = party(study)
    set_aside(one)
    claim = one.claim()
    one.start(claim)
    one.writer.fail("CUDA out of memory")
    assert ticket_states(database, study) == ["failed"]
    assert attempts_of(database, claim.lease) == ["failed", "failed"]
    assert state_of(database, study) is StudyState.FINISHED


def test_a_lone_trial_whose_worker_died_waits_for_a_card_again(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one = party(study)
    set_aside(one)
    lose(database, one.claim().lease)
    claim = asked(one, True)
    assert isinstance(claim, Claim)
    assert claim.alone


def test_what_died_beside_others_gets_a_runner_to_itself_and_counts_against_nothing(
    database: Database, party: Opener
) -> None:
    study = make_study(database, 3)
    one = party(study)
    first, _ = one.begin()
    one.writer.end_beside("its runner died by SIGSEGV, with 3 trials at once")
    row = ticket_row(database, first.lease)
    assert (row.state, row.failed, row.lost, row.alone) == (TicketState.QUEUED, 0, 0, Need.RUNNER)
    assert attempts_of(database, first.lease) == ["lost"]
    for slot in (1, 2):
        beside = one.try_claim(slot=slot, takes=tickets.BESIDE)
        assert isinstance(beside, Claim)
        assert beside.lease.ticket_id != first.lease.ticket_id
    left = one.try_claim(slot=3, takes=tickets.BESIDE)
    assert isinstance(left, NothingToClaim)
    assert left.alone is Need.RUNNER
    found = one.try_claim(takes=(Need.CARD, Need.RUNNER))
    assert isinstance(found, Claim)
    assert (found.lease.ticket_id, found.alone) == (first.lease.ticket_id, Need.RUNNER)


def test_a_runner_of_one_place_takes_what_needs_a_runner_to_itself(database: Database, party: Opener) -> None:
    """On a card that others use, too."""
    study = make_study(database, 1)
    one = party(study)
    one.begin()
    one.writer.end_beside("its runner died")
    assert isinstance(asked(one, True), NothingToClaim)
    assert isinstance(asked(one, False), Claim)
