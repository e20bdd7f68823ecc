"""`hpo audit` proves from the database that the invariants held, so it must see each of them broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState

from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.database.tables import attempt, study, ticket
from storage.history.audit import Audit, audit
from storage.queue import studies
from tests.support.shared import Opener, lose, make_study

_trials: Any = models.TrialModel.__table__
Damage = Callable[[sa.Connection, StudyRow], Any]


def audited(database: Database) -> Audit:
    return database.read(lambda c: audit(c, studies.get(c, "study")))


def finished(database: Database, party: Opener) -> StudyRow:
    """A grid of three cells: one done at once, one after a lost attempt, one pruned away by failure."""
    row = make_study(database, [{"x": 0.1}, {"x": 0.2}, {"x": 0.3}], cells=True)
    one = party(row)
    one.finish_one()
    claim, _ = one.begin()
    lose(database, claim.lease)
    one.finish_one()
    one.begin()
    one.writer.fail("boom")
    return row


def _second_result(connection: sa.Connection, _row: StudyRow) -> None:
    connection.execute(attempt.update().where(attempt.c.state == "lost").values(state="complete"))


def _stray_trial(connection: sa.Connection, row: StudyRow) -> None:
    values = {"study_id": row.optuna_study_id, "number": 99, "state": TrialState.COMPLETE}
    connection.execute(_trials.insert().values(**values))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a ticket is missing": (
        lambda c, _: c.execute(ticket.delete().where(ticket.c.state == "failed")),
        "number of tickets = the budget",
    ),
    "a ticket is too many": (
        lambda c, row: c.execute(
            ticket.insert().values(study_id=row.id, number=3, state="failed", point='{"x": 0.4}', cell=1)
        ),
        "number of tickets = the budget",
    ),
    "two results of one ticket": (_second_result, "no ticket has two results"),
    "a cell stands twice": (
        lambda c, _: c.execute(ticket.update().values(point='{"x": 0.1}')),
        "no grid cell stands twice",
    ),
    "a result without a ticket": (_stray_trial, "every result belongs to one ticket"),
    "a ticket without its result": (
        lambda c, _: c.execute(_trials.update().values(state=TrialState.FAIL)),
        "every result belongs to one ticket",
    ),
    "an attempt runs on a finished ticket": (
        lambda c, _: c.execute(attempt.update().where(attempt.c.state == "lost").values(state="running")),
        "at most one",
    ),
    "a ticket runs that nobody attempts": (
        lambda c, _: c.execute(ticket.update().where(ticket.c.state == "failed").values(state="running")),
        "at most one",
    ),
    "a ticket runs in an ended study": (
        lambda c, _: c.execute(ticket.update().where(ticket.c.state == "failed").values(state="running")),
        "nothing runs or is parked",
    ),
    "a ticket is parked in an ended study": (
        lambda c, _: c.execute(ticket.update().where(ticket.c.state == "failed").values(state="parked")),
        "nothing runs or is parked",
    ),
    "a trial is over whose ticket waits": (
        lambda c, _: c.execute(ticket.update().where(ticket.c.number == 0).values(state="queued")),
        "no trial is left open",
    ),
    "a trial is open in an ended study": (
        lambda c, _: c.execute(ticket.update().where(ticket.c.state == "failed").values(state="queued")),
        "no trial is left open",
    ),
}


def test_a_sound_study_passes(database: Database, party: Opener) -> None:
    finished(database, party)
    found = audited(database)
    assert found.holds, found.checks
    assert (found.tickets, found.results, found.failed, found.duplicates, found.missing) == (3, 2, 1, 0, 0)
    assert found.attempts_per_ticket == {1: 2, 2: 1}


def test_a_running_study_passes(database: Database, party: Opener) -> None:
    row = make_study(database, 3)
    party(row).begin()
    party(row).finish_one()
    assert audited(database).holds


@pytest.mark.parametrize("name", DAMAGES)
def test_the_audit_sees(database: Database, party: Opener, name: str) -> None:
    row = finished(database, party)
    damage, rule = DAMAGES[name]
    database.write(lambda connection: damage(connection, row))
    found = audited(database)
    assert not found.holds
    assert any(check.rule.startswith(rule) for check in found.checks if not check.holds), found.checks


def test_a_deleted_trial_counts_as_missing(database: Database, party: Opener) -> None:
    row = finished(database, party)
    database.write(lambda c: c.execute(ticket.update().where(ticket.c.number == 0).values(state="queued")))
    database.write(lambda c: c.execute(study.update().where(study.c.id == row.id).values(state="finished")))
    found = audited(database)
    assert found.missing == 1
    (broken,) = (check for check in found.checks if not check.holds and "every ticket" in check.rule)
    assert "hpo resume study" in broken.found
