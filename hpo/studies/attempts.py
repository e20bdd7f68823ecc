"""Attempts, logs, artifacts and workers as plain values."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.errors import HpoError
from hpo.studies.tables import iso
from hpo.wiring import open_artifacts, telling
from storage.database.clock import to_datetime
from storage.database.engine import Database
from storage.database.errors import ArtifactError
from storage.database.records import StudyRow
from storage.database.tables import artifact, attempt, ticket, worker
from storage.files import checkpoints, kept_files
from storage.queue import workers as worker_store


def attempts_of(database: Database, row: StudyRow, trial: int) -> list[dict[str, Any]]:
    """Every attempt at a trial, oldest first."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        query = (
            sa.select(attempt, worker.c.name)
            .join(ticket, attempt.c.ticket_id == ticket.c.id)
            .outerjoin(worker, attempt.c.worker_id == worker.c.id)
            .where(ticket.c.study_id == row.id, attempt.c.trial_number == trial)
            .order_by(attempt.c.number)
        )
        return [
            {
                "number": found.number,
                "state": found.state,
                "worker": found.name or found.worker_id,
                "runner": found.runner,
                "device": found.device,
                "resumed_from": found.resumed_from,
                "started": iso(to_datetime(found.started_at)),
                "ended": iso(to_datetime(found.ended_at)),
                "seconds": None if found.ended_at is None else round(found.ended_at - found.started_at, 3),
                "peak_memory": found.peak_memory,
                "error": found.error,
            }
            for found in connection.execute(query)
        ]

    with telling():
        return database.read(read)


def artifacts_of(database: Database, row: StudyRow, trial: int) -> list[dict[str, Any]]:
    """Files kept with a trial."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        ids = sa.select(attempt.c.trial_id).where(attempt.c.trial_number == trial)
        query = (
            sa.select(artifact)
            .where(artifact.c.study_id == row.id, artifact.c.trial_id.in_(ids), kept_files.live)
            .order_by(artifact.c.name)
        )
        return [
            {"name": found.name, "bytes": found.bytes, "sha256": found.sha256, "path": found.path}
            for found in connection.execute(query)
        ]

    with telling():
        return database.read(read)


def read_log(database: Database, row: StudyRow, trial: int, number: int) -> str | None:
    """What one attempt printed so far; None when no log can be read here."""
    key = f"{checkpoints.trial_key(row.uid, row.name, trial)}/{number}/log.txt"
    try:
        return open_artifacts(row.artifacts).get(key).decode(errors="replace")
    except (ArtifactError, HpoError):
        return None


def workers_json(database: Database, row: StudyRow | None = None) -> list[dict[str, Any]]:
    """Every worker, or those of one study."""
    with telling():
        found = database.read(
            lambda connection: worker_store.all_workers(
                connection, database.clock, None if row is None else row.id
            )
        )
    return [
        {
            "id": item.id,
            "name": item.name,
            "host": item.host,
            "pid": item.pid,
            "devices": list(item.devices),
            "state": item.state.value,
            "study": item.study,
            "trials": list(item.trials),
            "started": iso(to_datetime(item.started_at)),
            "last_beat": iso(to_datetime(item.beat_at)),
            "silent_for": round(max(item.silent_for, 0.0), 1),
            "reason": item.reason,
            "versions": dict(item.versions),
            "status": dict(item.status),
            "good_attempts": item.good_attempts,
            "bad_attempts": item.bad_attempts,
        }
        for item in found
    ]
