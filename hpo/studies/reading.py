"""Read a study from the database: its row, its whole history, what its trials left behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.errors import HpoError, NotFoundError
from hpo.search.history import Direction, StudyHistory, TrialRecord
from hpo.studies.trials import read_metrics, read_records
from hpo.wiring import open_artifacts, telling
from storage.database.clock import to_datetime
from storage.database.engine import Database
from storage.database.errors import ArtifactError, ArtifactsAwayError, UnknownStudyError
from storage.database.records import Counts, StudyRow
from storage.database.tables import artifact, attempt
from storage.queue import studies, tickets


def get_study(database: Database, name: str) -> StudyRow:
    """One study.

    Raises:
        NotFoundError: there is none of that name; a near one is offered.
    """
    with telling():
        try:
            return database.read(lambda connection: studies.get(connection, name))
        except UnknownStudyError as error:
            from hpo.spec.problems import nearest  # the spec's models cost more than the query

            names = [row.name for row in list_studies(database)]
            raise NotFoundError(f"{error}{nearest(name, names)}") from error


def list_studies(database: Database) -> list[StudyRow]:
    """Every study, oldest first."""
    with telling():
        return database.read(studies.all_studies)


def counts(database: Database, row: StudyRow) -> Counts:
    """Tickets of a study by state; what a finished study left untried waits for nobody."""
    with telling():
        found = database.read(lambda connection: tickets.counts(connection, row.id))
    return found.shown_in(row.state)


def history(database: Database, name: str, *, evaluated: bool = True) -> StudyHistory:
    """A study and all its trials; `evaluated`: with the winner's evaluation, for which the store is opened.

    Raises:
        NotFoundError: there is none of that name.
    """
    row = get_study(database, name)
    with telling():
        records = database.read(lambda connection: _read_everything(connection, row))
    trials = tuple(sorted(records, key=lambda record: record.number))
    found = counts(database, row)
    winner = best_of(trials, row.spec["directions"])
    evaluation = None
    if evaluated and len(winner) == 1:
        evaluation = read_evaluation(database, row, winner[0].number)
    return StudyHistory(
        name=row.name,
        state=row.state.value,
        directions=cast(tuple[Direction, ...], tuple(row.spec["directions"])),
        spec=row.spec,
        trials=trials,
        created=to_datetime(row.created_at),
        waiting=found.untried,
        budget_trials=row.budget_trials,
        winner_evaluation=evaluation,
        test_evaluation=_still_of(winner, row.test_evaluation),
    )


def _read_everything(connection: Connection, row: StudyRow) -> list[TrialRecord]:
    found = read_records(connection, row)
    metrics = read_metrics(connection, found)
    return [dataclasses.replace(record, metrics=metrics[trial_id]) for trial_id, record in found.items()]


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
    try:
        content = read_artifact(database, row, number, "evaluation.json")
        found = None if content is None else json.loads(content)
    except (HpoError, ValueError):  # the store is away or needs a driver; or it is no JSON
        return None
    return found if isinstance(found, dict) else None


def read_artifact(database: Database, row: StudyRow, number: int, name: str) -> bytes | None:
    """A file kept with a trial, checked by its sha256; None when there is none that can be read here.

    Raises:
        HpoError: the artifact store is away, or cannot be used from here.
    """

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
    with telling():
        try:
            return open_artifacts(row.artifacts).get(found.path, found.sha256)
        except ArtifactsAwayError:
            raise
        except ArtifactError:
            return None


def _still_of(winner: list[TrialRecord], note: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The stored test evaluation, when it is still the winner's."""
    if note is None or len(winner) != 1 or note.get("trial") != winner[0].number:
        return None
    found = note.get("evaluation")
    return found if isinstance(found, dict) else None
