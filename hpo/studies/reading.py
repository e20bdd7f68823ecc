"""Read a study's history from the database: Optuna's trials with our tickets, attempts and metrics."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from optuna.storages import get_storage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from hpo.errors import NotFoundError
from hpo.search.history import Direction, StudyHistory, TrialRecord, TrialStateName
from hpo.spec.problems import nearest
from hpo.wiring import open_artifacts, telling
from storage import studies, tickets
from storage.clock import to_datetime
from storage.engine import Database
from storage.errors import ArtifactError, UnknownStudyError
from storage.records import Counts, StudyRow, StudyState, TicketState
from storage.tables import artifact, attempt, metric, ticket, worker

_FINAL: dict[TrialState, TrialStateName] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def get_study(database: Database, name: str) -> StudyRow:
    """One study.

    Raises:
        NotFoundError: there is none of that name; a near one is offered.
    """
    with telling():
        try:
            return database.read(lambda connection: studies.get(connection, name))
        except UnknownStudyError as error:
            names = [row.name for row in list_studies(database)]
            raise NotFoundError(f"{error}{nearest(name, names)}") from error


def list_studies(database: Database) -> list[StudyRow]:
    """Every study, oldest first."""
    with telling():
        return database.read(studies.all_studies)


def counts(database: Database, row: StudyRow) -> Counts:
    """Tickets of a study by state; what an ended study left unspent waits for nobody."""
    with telling():
        found = database.read(lambda connection: tickets.counts(connection, row.id))
    if row.state is StudyState.FINISHED:
        return Counts(found.complete, found.pruned, found.failed, found.running, 0, found.cancelled)
    return found


def history(database: Database, name: str) -> StudyHistory:
    """A study and all its trials.

    Raises:
        NotFoundError: there is none of that name.
    """
    row = get_study(database, name)
    with telling():
        storage = get_storage(database.rdb)
        frozen = database.patience(
            database.url, lambda: storage.get_all_trials(row.optuna_study_id, deepcopy=False)
        )
        ours = database.read(lambda connection: _OurSide.read(connection, row.id))
    trials = tuple(_record(trial, ours) for trial in frozen)
    found = counts(database, row)
    winner = best_of(trials, row.spec["directions"])
    evaluation = read_evaluation(database, row, winner[0].number) if len(winner) == 1 else None
    return StudyHistory(
        name=row.name,
        state=row.state.value,
        directions=cast(tuple[Direction, ...], tuple(row.spec["directions"])),
        spec=row.spec,
        trials=trials,
        created=to_datetime(row.created_at),
        waiting=found.waiting,
        budget_trials=row.budget_trials,
        winner_evaluation=evaluation,
        test_evaluation=_still_of(winner, row.test_evaluation),
    )


def best_of(trials: tuple[TrialRecord, ...], directions: Any) -> list[TrialRecord]:
    """The best complete trial (the earliest of equals); with several directions the Pareto front.

    Returns [] when no trial is complete.
    """
    done = [trial for trial in trials if trial.state == "complete" and trial.values]
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]

    def losses(trial: TrialRecord) -> tuple[float, ...]:
        assert trial.values is not None
        return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))

    if len(signs) == 1:
        return [min(done, key=losses)] if done else []
    front = []
    for trial in done:
        mine = losses(trial)
        beaten = any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in (losses(rival) for rival in done)
        )
        if not beaten:
            front.append(trial)
    return front


def read_evaluation(database: Database, row: StudyRow, number: int) -> Mapping[str, Any] | None:
    """A trial's `evaluation.json`; None when it left none, or none that can be read here."""
    content = read_artifact(database, row, number, "evaluation.json")
    if content is None:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_artifact(database: Database, row: StudyRow, number: int, name: str) -> bytes | None:
    """A file kept with a trial, checked by its sha256; None when there is none that can be read here."""

    def find(connection: Connection) -> Any:
        return connection.execute(
            sa.select(artifact)
            .join(attempt, attempt.c.trial_id == artifact.c.trial_id)
            .where(artifact.c.study_id == row.id, attempt.c.trial_number == number, artifact.c.name == name)
        ).first()

    with telling():
        found = database.read(find)
    if found is None:
        return None
    try:
        return open_artifacts(row.artifacts).get(found.path, found.sha256)
    except ArtifactError:
        return None


class _OurSide:
    """Our rows of one study, by Optuna's trial id."""

    def __init__(self) -> None:
        self.tickets: dict[int, Any] = {}
        self.attempts: dict[int, list[Any]] = defaultdict(list)
        self.metrics: dict[int, dict[str, dict[int, float]]] = defaultdict(dict)
        self.workers: dict[str, str] = {}

    @classmethod
    def read(cls, connection: Connection, study_id: int) -> _OurSide:
        ours = cls()
        for row in connection.execute(sa.select(ticket).where(ticket.c.study_id == study_id)):
            if row.trial_id is not None:
                ours.tickets[row.trial_id] = row
        query = (
            sa.select(attempt, ticket.c.number.label("ticket"))
            .join(ticket, attempt.c.ticket_id == ticket.c.id)
            .where(ticket.c.study_id == study_id)
            .order_by(attempt.c.number)
        )
        for row in connection.execute(query):
            if row.trial_id is not None:
                ours.attempts[row.trial_id].append(row)
        mine = (
            sa.select(attempt.c.trial_id)
            .join(ticket, attempt.c.ticket_id == ticket.c.id)
            .where(ticket.c.study_id == study_id)
        )
        for row in connection.execute(
            sa.select(metric).where(metric.c.trial_id.in_(mine)).order_by(metric.c.step)
        ):
            ours.metrics[row.trial_id].setdefault(row.name, {})[row.step] = row.value
        ours.workers = {row.id: row.name for row in connection.execute(sa.select(worker.c.id, worker.c.name))}
        return ours


def _record(trial: FrozenTrial, ours: _OurSide) -> TrialRecord:
    attempts = ours.attempts.get(trial._trial_id, [])
    held = ours.tickets.get(trial._trial_id)
    state = _FINAL.get(trial.state) or (
        "running" if held is not None and held.state == TicketState.RUNNING else "waiting"
    )
    last = attempts[-1] if attempts else None
    worker_name = None if last is None else ours.workers.get(last.worker_id, last.worker_id)
    ended = state in ("complete", "pruned", "failed")
    return TrialRecord(
        number=trial.number,
        state=state,
        values=tuple(trial.values) if trial.state is TrialState.COMPLETE and trial.values else None,
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        reports=dict(sorted(trial.intermediate_values.items())),
        metrics=ours.metrics.get(trial._trial_id, {}),
        user_attrs=dict(trial.user_attrs),
        attempts=len(attempts),
        ticket=last.ticket if last is not None else trial.number,
        worker=worker_name,
        runner=None if last is None else f"{worker_name}/{last.runner}",
        device=None if last is None else last.device,
        started=to_datetime(attempts[0].started_at) if attempts else None,
        finished=to_datetime(last.ended_at) if ended and last is not None else None,
        error=_last_error(attempts) if state != "complete" else None,
    )


def _last_error(attempts: list[Any]) -> str | None:
    """Last line of what ended the last attempt that was not given back."""
    for row in reversed(attempts):
        if row.error and row.state != "released":
            return str(row.error).strip().splitlines()[-1][:500]
    return None


def _still_of(winner: list[TrialRecord], note: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The stored test evaluation, when it is still the winner's."""
    if note is None or len(winner) != 1 or note.get("trial") != winner[0].number:
        return None
    found = note.get("evaluation")
    return found if isinstance(found, dict) else None
