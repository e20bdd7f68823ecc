"""Files kept with trials: one row each, several rows may share one stored file.

A row is released before its file is removed: its name then begins with `~`, which no artifact's name
does. A file may go when every row that names it is released; it cannot come back into use, because a
further row shares a file only by way of a live row, which it locks. So deletion races with nothing,
and a worker that dies half-way leaves released rows for the next to finish.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.optuna_tables import trials
from storage.database.records import KeptFile
from storage.database.tables import artifact
from storage.files.checkpoints import CHECKPOINT
from storage.history.columns import OVER
from storage.history.trials import front, ranked

MODEL = "model.pt"  # the artifact that holds a trial's best weights
WEIGHTS = (MODEL, CHECKPOINT)

live = artifact.c.name.not_like("~%")


def record(connection: Connection, study_id: int, trial_id: int, attempt: int, file: KeptFile) -> None:
    """Keep the file with the trial; the same name again replaces it."""
    _release(connection, (artifact.c.trial_id == trial_id) & (artifact.c.name == file.name))
    connection.execute(
        artifact.insert().values(
            study_id=study_id,
            trial_id=trial_id,
            attempt=attempt,
            name=file.name,
            path=file.path,
            sha256=file.sha256,
            bytes=file.size,
            created_at=database_now(),
        )
    )


def stored_already(connection: Connection, study_id: int, sha256: str) -> str | None:
    """Path of a file of the study with this content; its row is locked, so that it stays until commit."""
    return connection.scalar(
        sa.select(artifact.c.path)
        .where(artifact.c.study_id == study_id, artifact.c.sha256 == sha256, live)
        .limit(1)
        .with_for_update()
    )


def names_of(connection: Connection, trial_id: int) -> set[str]:
    """Names of the files kept with a trial."""
    return set(connection.scalars(sa.select(artifact.c.name).where(artifact.c.trial_id == trial_id, live)))


def paths_of(connection: Connection, study_id: int, trial_id: int | None = None) -> set[str]:
    """Where the files of a study, or of one trial of it, lie."""
    query = sa.select(artifact.c.path).where(artifact.c.study_id == study_id, live)
    if trial_id is not None:
        query = query.where(artifact.c.trial_id == trial_id)
    return set(connection.scalars(query))


def release_beaten(
    connection: Connection, study_id: int, optuna_study_id: int, directions: Sequence[str], best: int | None
) -> None:
    """Release the weights of trials that are over and not among the best.

    The best are the `best` first by value (the earliest of equals), feasible ones before others; with several
    directions the Pareto front. A trial that is not among them now never will be, so any number of workers
    may do this at once.
    """
    weights = connection.execute(
        sa.select(artifact.c.id, artifact.c.trial_id)
        .join(trials, trials.c.trial_id == artifact.c.trial_id)
        .where(artifact.c.study_id == study_id, artifact.c.name.in_(WEIGHTS), trials.c.state.in_(OVER))
    ).all()
    if best is None or not weights:
        return
    if len(directions) == 1:
        kept = set(connection.scalars(ranked(optuna_study_id, directions[0], ours=True).limit(best)))
    else:
        kept = front(connection, optuna_study_id, directions)
    beaten = [row.id for row in weights if row.trial_id not in kept]
    if beaten:
        _release(connection, artifact.c.id.in_(beaten))


def release_weights(connection: Connection, trial_id: int) -> None:
    """Release what a trial holds of weights, however many the study keeps."""
    _release(connection, (artifact.c.trial_id == trial_id) & artifact.c.name.in_(WEIGHTS))


def release_weights_of(connection: Connection, study_id: int, trials: sa.Select[tuple[int]]) -> None:
    """Release what these trials hold of weights."""
    its = (artifact.c.study_id == study_id) & artifact.c.trial_id.in_(trials)
    _release(connection, its & artifact.c.name.in_(WEIGHTS))


@dataclass(frozen=True)
class Held:
    """How many rows of a study hold weights, and how many are released."""

    weights: int
    released: int


def held(connection: Connection, study_id: int) -> Held:
    """Whether there is anything for `release_beaten` and `removable`: mostly not, and this is cheap."""
    found = connection.scalars(
        sa.select(artifact.c.name).where(
            artifact.c.study_id == study_id, sa.or_(artifact.c.name.in_(WEIGHTS), sa.not_(live))
        )
    ).all()
    released = sum(name.startswith("~") for name in found)
    return Held(len(found) - released, released)


def removable(connection: Connection, study_id: int) -> list[tuple[int, str]]:
    """Released rows (id, path) whose file no live row names; other released rows are forgotten."""
    other = artifact.alias()
    named = sa.exists().where(
        other.c.study_id == study_id, other.c.path == artifact.c.path, other.c.name.not_like("~%")
    )
    released = (artifact.c.study_id == study_id) & sa.not_(live)
    connection.execute(artifact.delete().where(released, named))
    rows = connection.execute(sa.select(artifact.c.id, artifact.c.path).where(released, sa.not_(named)))
    return [(int(row.id), str(row.path)) for row in rows]


def forget(connection: Connection, ids: Collection[int]) -> None:
    """Drop released rows whose files are gone."""
    connection.execute(artifact.delete().where(artifact.c.id.in_(ids)))


def _release(connection: Connection, which: sa.ColumnElement[bool]) -> None:
    mark = sa.literal("~").concat(sa.cast(artifact.c.id, sa.String))
    connection.execute(artifact.update().where(which, live).values(name=mark))
