"""Attempts at a trial and the files kept with it, as stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import to_datetime
from storage.database.records import StudyRow
from storage.database.tables import artifact, attempt, load, ticket, worker
from storage.files import kept_files
from storage.history.records import Machine
from storage.queue.workers import serves


@dataclass(frozen=True)
class AttemptRow:
    """One attempt. Times are timezone-aware UTC from the database's clock."""

    number: int
    state: str
    worker: str  # its name
    runner: int
    device: str
    resumed_from: int | None  # step of the checkpoint it went on from
    started: datetime | None
    ended: datetime | None
    peak_memory: float | None  # bytes
    error: str | None  # the whole traceback, or what ended it
    versions: Mapping[str, str]  # of its worker's Python and packages


@dataclass(frozen=True)
class FileRow:
    """One file kept with a trial."""

    name: str
    bytes: int
    sha256: str
    path: str  # relative to the study's artifact store


@dataclass(frozen=True)
class TicketRow:
    """The unit of the budget that a trial has, as far as its parameters come from it."""

    number: int
    point: Mapping[str, Any]  # given values; {} where the sampler chose all
    is_cell: bool  # the point is a grid's cell
    retry_of: int | None  # number of the failed trial that the ticket had before
    saw: Mapping[str, Any]  # which trials a sampler knew when it chose (`hpo.worker.study`); {}: none
    copies: int | None  # number of the ticket whose pruned trial, `retry_of`, it carries to its end


def ticket_of(connection: Connection, row: StudyRow, trial: int) -> TicketRow | None:
    """The ticket whose newest trial has this number; None when there is none."""
    where = (ticket.c.study_id == row.id) & (ticket.c.trial_number == trial)
    old = ticket.alias()
    its = (old.c.study_id == row.id) & (old.c.trial_number == ticket.c.retry_of)
    both = sa.select(ticket, old.c.number.label("copies")).outerjoin(old, its)
    found = connection.execute(both.where(where)).first()
    if found is None:
        return None
    point, saw = (json.loads(held) if held else {} for held in (found.point, found.sampler_saw))
    return TicketRow(found.number, point, bool(found.cell), found.retry_of, saw, found.copies)


def attempts_of(connection: Connection, row: StudyRow, trial: int) -> list[AttemptRow]:
    """Every attempt at the trial of this number, oldest first."""
    query = (
        sa.select(attempt, worker.c.name, worker.c.versions)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .outerjoin(worker, attempt.c.worker_id == worker.c.id)
        .where(ticket.c.study_id == row.id, attempt.c.trial_number == trial)
        .order_by(attempt.c.number)
    )
    return [
        AttemptRow(
            number=found.number,
            state=found.state,
            worker=found.name or found.worker_id,
            runner=found.runner,
            device=found.device,
            resumed_from=found.resumed_from,
            started=to_datetime(found.started_at),
            ended=to_datetime(found.ended_at),
            peak_memory=found.peak_memory,
            error=found.error,
            versions=json.loads(found.versions) if found.versions else {},
        )
        for found in connection.execute(query)
    ]


def machines_of(connection: Connection, row: StudyRow) -> tuple[Machine, ...]:
    """How busy the machines were on which workers served the study; oldest worker first."""
    query = sa.select(worker.c.name, worker.c.started_at, worker.c.devices, load.c.samples).join(
        load, load.c.worker_id == worker.c.id
    )
    found = []
    for name, started, devices, samples in connection.execute(
        query.where(serves(row.id)).order_by(worker.c.started_at, worker.c.id)
    ):
        stored = json.loads(samples)
        seconds, *shares = zip(*stored["samples"], strict=True)
        begun, *times = (datetime.fromtimestamp(started + after, UTC) for after in (0, *seconds))
        by_name = dict(zip(stored["names"], shares, strict=True))
        found.append(Machine(name, len(json.loads(devices)), begun, tuple(times), by_name))
    return tuple(found)


def files_of(connection: Connection, row: StudyRow, trial: int) -> list[FileRow]:
    """Files kept with the trial of this number, by name."""
    return [_file(found) for found in connection.execute(_files(row, trial).order_by(artifact.c.name))]


def file_of(connection: Connection, row: StudyRow, trial: int, name: str) -> FileRow | None:
    """The file of that name kept with the trial of this number; None when there is none."""
    found = connection.execute(_files(row, trial).where(artifact.c.name == name)).first()
    return None if found is None else _file(found)


def _files(row: StudyRow, trial: int) -> sa.Select[Any]:
    ids = (
        sa.select(attempt.c.trial_id)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .where(ticket.c.study_id == row.id, attempt.c.trial_number == trial)
    )
    return sa.select(artifact).where(
        artifact.c.study_id == row.id, artifact.c.trial_id.in_(ids), kept_files.live
    )


def _file(found: Any) -> FileRow:
    return FileRow(found.name, found.bytes, found.sha256, found.path)
