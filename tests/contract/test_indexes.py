"""The statements that run all day find their rows by an index, however long the queue is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from storage.database import optuna_tables
from storage.database.engine import Database
from storage.history.known import KnownTrials
from storage.queue import leases, optuna_rows
from tests.support.claims import claim_next
from tests.support.shared import LEASE, Opener, Party, make_study

QUEUED = 5_000

VERBS: dict[str, tuple[Callable[[sa.Connection, Database, Party], Any], str, str]] = {
    "claim": (
        lambda c, database, one: claim_next(c, one.study.id, one.id, 1, "cpu", LEASE),
        "ORDER BY hpo_ticket.priority DESC",
        "ix_hpo_ticket_waiting",
    ),
    "reaping": (
        lambda c, database, _: leases.reap_expired(c, leases.Sight()),
        "hpo_ticket.lease_until <",
        "ix_hpo_ticket_leased",
    ),
}


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("verb", VERBS)
def test_the_statement_uses_its_partial_index(
    database: Database, party: Opener, verb: str, failed: bool
) -> None:
    """Also for a worker with failures, which looks for what has not failed on it first.

    A claim does so before autovacuum has come by.
    """
    call, marks, index = VERBS[verb]
    study = make_study(database, QUEUED)
    one = party(study)
    one.begin()
    if failed:
        one.writer.fail("ValueError: no")
        one.begin()
    if verb == "claim" and database.engine.dialect.name == "postgresql":
        counted = sa.text("SELECT reltuples FROM pg_class WHERE relname = 'hpo_ticket'")
        assert database.read(lambda c: c.scalar(counted)) >= QUEUED, "-1 before it has looked"
    else:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    for plan in plans(database, marks, lambda c: call(c, database, one)):
        assert index in plan, plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan or verb == "reaping", plan
        assert "Sort" not in plan or verb == "reaping", plan


def test_a_claim_looks_for_waiting_trials_among_new_ones_alone(database: Database) -> None:
    """However many have ended."""
    study = make_study(database, 1)
    ended = {"study_id": study.optuna_study_id, "state": "COMPLETE"}
    rows = [{**ended, "number": number} for number in range(QUEUED)]
    database.write(lambda c: c.execute(sa.insert(optuna_tables.trials), rows))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    last = database.write(lambda c: optuna_rows.take_waiting(c, study.optuna_study_id))
    again = partial(optuna_rows.take_waiting, optuna_study_id=study.optuna_study_id, after=last[2] - 5)
    for plan in plans(database, "max(trials.trial_id)", again):
        assert "rowid>?" in plan or "Index Cond: (trial_id >" in plan, plan


def test_a_look_for_what_is_new_reads_no_trial_that_is_known(database: Database) -> None:
    """Each decision of a pruner begins with one."""
    study = make_study(database, 1)
    its = {"study_id": study.optuna_study_id}
    rows = [{**its, "number": n, "state": "COMPLETE" if n < QUEUED - 2 else "RUNNING"} for n in range(QUEUED)]
    database.write(lambda c: c.execute(sa.insert(optuna_tables.trials), rows))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    known = KnownTrials(study.optuna_study_id)
    database.read(known.refresh)
    for plan in plans(database, "UNION ALL", known.refresh):
        assert "SCAN trials" not in plan, plan
        assert "Seq Scan on trials" not in plan, plan


def plans(database: Database, marks: str, call: Callable[[sa.Connection], Any]) -> list[str]:
    """How the database runs those statements of the call that contain this."""
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if marks in statement:
            seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        database.write(call)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert seen
    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        return [
            "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(explain + statement, parameters))
            for statement, parameters in seen
        ]
