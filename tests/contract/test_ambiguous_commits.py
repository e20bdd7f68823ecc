"""A commit whose answer was lost: the call is repeated, and what it had done is not done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from storage.database.engine import Database
from storage.database.errors import LeaseLostError
from storage.database.records import TicketState
from storage.database.tables import attempt, ticket
from storage.queue import outcomes, studies
from storage.queue.leases import while_held
from tests.support.shared import Opener, attempts_of, make_study, ticket_row, ticket_states


@contextmanager
def lost_answer(database: Database) -> Iterator[list[str]]:
    """The next commit happens, but its caller is told that the connection broke."""
    happened: list[str] = []
    real = database.engine.dialect.do_commit

    def commit(connection: Any) -> None:
        real(connection)
        if not happened:
            happened.append("lost")
            raise sa.exc.OperationalError("COMMIT", {}, _broken(database))

    database.engine.dialect.do_commit = commit  # type: ignore[method-assign]
    try:
        yield happened
    finally:
        database.engine.dialect.do_commit = real  # type: ignore[method-assign]
    assert happened, "no commit was made"


def _broken(database: Database) -> Exception:
    dbapi: Any = database.engine.dialect.dbapi
    return dbapi.OperationalError("database is locked: server closed the connection unexpectedly")  # type: ignore[no-any-return]


def test_a_claim_is_not_made_twice(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    with lost_answer(one.database):
        claim = one.claim()
    assert claim.lease.attempt == 1
    assert ticket_states(database, study) == ["running", "queued", "queued"]


def test_a_trial_is_not_made_twice(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    claim = one.claim()
    with lost_answer(one.database):
        trial = one.start(claim)
    trials = one.database.rdb.get_all_trials(study.optuna_study_id)
    assert [(t.number, t.params) for t in trials] == [(trial.number, {"x": 0.5})]
    assert ticket_row(database, claim.lease).trial_id == trial.id


ENDS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "result": (lambda p: p.complete(0.5), "complete", "complete"),
    "failure": (lambda p: p.writer.fail("boom"), "failed", "failed"),
    "release": (lambda p: p.writer.release("drained"), "queued", "released"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_an_end_counts_once(database: Database, party: Opener, kind: str) -> None:
    end, ticket_state, attempt_state = ENDS[kind]
    study = make_study(database, 2)
    one = party(study)
    claim, _ = one.begin()
    with lost_answer(one.database):
        end(one)
    assert ticket_row(database, claim.lease).state == ticket_state
    assert attempts_of(database, claim.lease) == [attempt_state]
    assert ticket_row(database, claim.lease).failed == (kind == "failure")


def test_a_report_and_an_attribute_stand_once(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    _, trial = one.begin()
    with lost_answer(one.database):
        one.writer.report(1, 0.1, {"loss": 1.0})
    with lost_answer(one.database):
        one.writer.set_attribute("user", "k", "v")
    frozen = one.database.rdb.get_trial(trial.id)
    assert (frozen.intermediate_values, frozen.user_attrs) == ({1: 0.1}, {"k": "v"})


def test_a_supervisor_ends_an_attempt_once(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    lease = one.claim().lease

    lose = partial(outcomes.lose, lease=lease, why="its runner died")
    with lost_answer(one.database), pytest.raises(LeaseLostError):  # the second time
        one.database.write(lambda c: while_held(c, lease, lose))
    assert ticket_row(database, lease).lost == 1
    assert attempts_of(database, lease) == ["lost"]


@contextmanager
def lost_on_the_way(database: Database) -> Iterator[None]:
    """`lost_answer`; SQLite's commit returns in this very process, so there nothing can get lost."""
    with nullcontext() if database.engine.dialect.name == "sqlite" else lost_answer(database):
        yield


def test_extending_a_study_never_counts_twice(database: Database) -> None:
    """A person's `extend --trials +2` gives two more trials, whatever the network did to its answer."""
    study = make_study(database, 1)
    with lost_on_the_way(database):
        database.write_once(lambda c: studies.extend(c, study.id, [None, None], cells=False))
    assert ticket_states(database, study) == ["queued"] * 3


def test_an_enqueued_point_is_not_taken_twice(database: Database) -> None:
    study = make_study(database, 3)
    with lost_on_the_way(database):
        number = database.write_once(lambda c: studies.enqueue(c, study.id, {"x": 0.25}, "ada"))
    points = database.read(lambda c: list(c.scalars(sa.select(ticket.c.point).order_by(ticket.c.number))))
    assert (points.count(None), number) == (2, 0)


def test_a_new_study_is_not_taken_for_somebody_elses(database: Database) -> None:
    with lost_on_the_way(database):
        study = make_study(database, 2)
    assert ticket_states(database, study) == [TicketState.QUEUED] * 2


def test_a_commit_that_did_not_happen_is_made_again(database: Database) -> None:
    study = make_study(database, 1)
    tries: list[int] = []

    def extend(connection: sa.Connection) -> None:
        studies.extend(connection, study.id, [None], cells=False)
        tries.append(1)
        if len(tries) == 1:
            raise sa.exc.OperationalError("INSERT", {}, _broken(database))

    database.write_once(extend)
    assert ticket_states(database, study) == ["queued"] * 2


def test_the_attempts_table_has_one_row_a_token(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    with lost_answer(one.database):
        one.begin()
    rows = database.read(lambda c: c.execute(sa.select(attempt.c.ticket_id, attempt.c.number)).all())
    assert len(rows) == 1
