"""A worker that serves every running study: whose turn it is, and whose fault failures are."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.worker.turns import POLL, EveryStudy
from storage.database.engine import Database
from storage.database.records import NothingToClaim, StudyRow, StudyState, WorkerState
from storage.queue import studies, workers
from storage.queue.waiting import open_studies
from tests.support.shared import Opener, Party, make_study, state_of, steer, ticket_states

TURN = 60.0


def spec(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "study": name,
        "objective": "mine.py",
        "direction": "maximize",
        "sampler": "random",
        "budget": {"trials": 9},
        **fields,
    }


def study(database: Database, name: str, tickets: int | None = 9, **fields: Any) -> StudyRow:
    return make_study(database, tickets, name=name, spec=spec(name, **fields))


class Clock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        self.seconds += 1e-3  # time passes while one looks
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(database: Database, clock: Clock) -> EveryStudy:
    return EveryStudy(database, "me", turn=TURN, now=clock)


def serve(turns: EveryStudy, runner: int) -> str | None:
    """The study the runner gets; it begins a trial there."""
    assignment = turns.next(runner)
    if assignment is None:
        return None
    turns.started(runner)
    return assignment.study


def test_runners_are_spread_over_the_studies(database: Database, turns: EveryStudy) -> None:
    study(database, "a")
    study(database, "b")
    assert sorted(str(serve(turns, runner)) for runner in range(4)) == ["a", "a", "b", "b"]


def test_the_study_that_others_serve_least_comes_first(
    database: Database, turns: EveryStudy, party: Opener
) -> None:
    """Two trials of `a` run on another worker."""
    other = party(study(database, "a"))
    other.claim(0)
    other.claim(1)
    study(database, "b")
    assert [serve(turns, runner) for runner in range(3)] == ["b", "b", "a"]


def test_a_runner_stays_for_its_turn_and_then_serves_who_waited(
    database: Database, turns: EveryStudy, clock: Clock
) -> None:
    """A new process imports torch anew, so studies do not alternate trial by trial."""
    study(database, "a")
    study(database, "b")
    first = [serve(turns, 0) for _ in range(5)]
    clock.seconds += TURN
    second = [serve(turns, 0) for _ in range(5)]
    clock.seconds += TURN
    assert (first, second, serve(turns, 0)) == (["a"] * 5, ["b"] * 5, "a")


def test_a_study_gets_no_more_runners_than_it_has_tickets(database: Database, turns: EveryStudy) -> None:
    study(database, "a", 1)
    study(database, "b", 1)
    found = [turns.next(runner) for runner in range(3)]
    assert [one and one.study for one in found] == ["a", "b", None]


def test_a_study_without_work_is_left_alone_for_a_moment(
    database: Database, turns: EveryStudy, clock: Clock
) -> None:
    """For example because its budget of seconds is spent: the claim found that out."""
    study(database, "a", None)
    assert serve(turns, 0) == "a"
    turns.nothing(0)
    assert serve(turns, 0) is None
    clock.seconds += POLL
    assert serve(turns, 0) == "a"


def test_a_skipped_study_gets_no_runner_again(database: Database, turns: EveryStudy, clock: Clock) -> None:
    study(database, "a")
    study(database, "b")
    first = turns.next(0)
    assert first is not None
    turns.skip(first)
    clock.seconds += 2 * TURN
    assert {serve(turns, runner) for runner in range(3)} == {"b"}


def test_paused_and_ended_studies_are_not_served(database: Database, turns: EveryStudy, clock: Clock) -> None:
    paused, stopped = study(database, "a"), study(database, "b")
    steer(database, paused, StudyState.PAUSED)
    steer(database, stopped, StudyState.STOPPING)
    assert serve(turns, 0) is None
    steer(database, paused, StudyState.RUNNING)
    clock.seconds += POLL
    assert serve(turns, 0) == "a"


def test_a_study_made_anew_under_its_name_is_another(
    database: Database, turns: EveryStudy, clock: Clock
) -> None:
    """It may have other threads and another objective: a runner of the old one must not serve it."""
    old = turns_of(turns, study(database, "a", threads=1))
    studies.delete(database, database.read(lambda c: studies.get(c, "a")))
    clock.seconds += TURN
    new = turns_of(turns, study(database, "a", threads=2))
    assert (old.spec.threads, new.spec.threads) == (1, 2)
    assert old.uid != new.uid


def turns_of(turns: EveryStudy, _row: StudyRow) -> Any:
    found = turns.next(0)
    turns.started(0)
    return found


def test_a_study_that_nobody_concluded_is_ended_by_who_looks_for_work(
    database: Database, party: Opener
) -> None:
    """A version before this one left it so: of two last attempts each saw the other running."""
    row = study(database, "a", 1)
    one = party(row)
    one.begin()
    one.complete()
    database.write(lambda c: studies.set_state(c, row.id, StudyState.RUNNING))
    reopened(database, row)
    assert database.write(lambda c: open_studies(c, "me")) == []
    assert state_of(database, row) is StudyState.FINISHED


def reopened(database: Database, row: StudyRow) -> None:
    from storage.database.tables import study as table

    database.write(lambda c: c.execute(table.update().where(table.c.id == row.id).values(state="running")))


def fail(worker: Party, row: StudyRow, times: int) -> None:
    worker.study = row
    for _ in range(times):
        worker.begin()
        worker.writer.fail("ImportError: no module named nothing")


def worker_row(database: Database, one: Party) -> Any:
    return next(w for w in database.read(lambda c: workers.all_workers(c)) if w.id == one.id)


def test_a_study_that_fails_is_kept_from_the_worker_which_serves_the_others_on(
    database: Database, party: Opener
) -> None:
    """One broken objective must not quarantine a worker that serves every study."""
    broken, sound = study(database, "broken"), study(database, "sound")
    one = party(broken, every=True)
    fail(one, broken, 5)
    refused = one.try_claim()
    assert isinstance(refused, NothingToClaim)
    assert (refused.fault, refused.ended) == (True, False)
    assert ticket_states(database, broken) == ["queued"] * 9, "its failures are given to others"
    assert worker_row(database, one).state is WorkerState.ACTIVE
    one.study = sound
    one.finish_one()


def test_a_worker_that_began_badly_in_two_studies_is_quarantined(database: Database, party: Opener) -> None:
    first, second, third = (study(database, name) for name in "abc")
    one = party(first, every=True)
    fail(one, first, 5)
    fail(one, second, 4)
    assert worker_row(database, one).state is WorkerState.ACTIVE
    fail(one, second, 1)
    assert worker_row(database, one).state is WorkerState.QUARANTINED
    one.study = third
    refused = one.try_claim()
    assert isinstance(refused, NothingToClaim)
    assert (refused.fault, refused.ended) == (True, True)


def test_what_fails_on_every_worker_of_every_study_stays_failed(database: Database, party: Opener) -> None:
    """When it fails everywhere, the setting is at fault: tickets do not go round for ever."""
    row = study(database, "a", 5)
    for name in ("one", "other"):
        fail(party(row, name, every=True), row, 5)
    assert ticket_states(database, row) == ["failed"] * 5
    assert state_of(database, row) is StudyState.FINISHED
