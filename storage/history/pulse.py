"""What changed in the database since the last look, cheaply: the pulse behind everything that moves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.optuna_tables import reports, trials
from storage.database.tables import artifact, study, ticket, worker
from storage.history.trials import OVERLAP, newest_report


@dataclass(frozen=True)
class Pulse:
    """A look at the database. Two equal signatures mean that nothing people can see has changed."""

    studies: dict[str, Any] = field(default_factory=dict)  # name -> signature
    workers: Any = None
    last_report: int = 0  # id


def changed(before: Pulse, now: Pulse) -> set[str]:
    """Names of the studies that changed, appeared or went."""
    names = before.studies.keys() | now.studies.keys()
    return {name for name in names if before.studies.get(name) != now.studies.get(name)}


def take_pulse(connection: Connection, before: Pulse | None = None) -> Pulse:
    """Signatures of every study and of the workers now; `before` is the last look."""
    before = before or Pulse()
    counts: dict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(
        sa.select(
            ticket.c.study_id,
            ticket.c.state,
            sa.func.count().label("n"),
            sa.func.sum(ticket.c.attempt).label("attempts"),
            sa.func.sum(ticket.c.priority).label("enqueued"),
        )
        .group_by(ticket.c.study_id, ticket.c.state)
        .order_by(ticket.c.state)
    ):
        counts[row.study_id].append((row.state, row.n, row.attempts, row.enqueued))
    files = {
        row.study_id: (row.n, row.newest)
        for row in connection.execute(
            sa.select(
                artifact.c.study_id, sa.func.count().label("n"), sa.func.max(artifact.c.id).label("newest")
            ).group_by(artifact.c.study_id)
        )
    }
    last_report = newest_report(connection)
    reported = _reports_of(connection, before, last_report)
    columns = [c for c in study.c if c.name not in ("spec", "code")]
    studies: dict[str, Any] = {}
    rows = connection.execute(sa.select(*columns)).all()
    for row in rows:
        if row.repeats_of is None:
            old = before.studies.get(row.name)
            newest = reported.get(row.optuna_study_id, old[-1] if old else 0)
            again = tuple((one.state, *counts[one.id]) for one in rows if one.repeats_of == row.id)
            studies[row.name] = (tuple(row), tuple(counts[row.id]), files.get(row.id), again, newest)
    beats = tuple(
        tuple(row)
        for row in connection.execute(
            sa.select(worker.c.id, worker.c.state, worker.c.beat_at, worker.c.reason).order_by(worker.c.id)
        )
    )
    return Pulse(studies, beats, last_report)


def _reports_of(connection: Connection, before: Pulse, last: int) -> dict[int, Any]:
    """Newest report id and count of the studies that may have reported since."""
    if before.studies and last == before.last_report:
        return {}
    since = before.last_report - OVERLAP if before.studies else last - OVERLAP
    found = connection.execute(
        sa.select(trials.c.study_id, sa.func.max(reports.c.trial_intermediate_value_id), sa.func.count())
        .join(trials, trials.c.trial_id == reports.c.trial_id)
        .where(reports.c.trial_intermediate_value_id > since)
        .group_by(trials.c.study_id)
    )
    return {study_id: (newest, count) for study_id, newest, count in found}
