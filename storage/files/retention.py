"""Remove files that nobody needs any more, so that disks do not fill. Small files stay with their trials."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.engine import Database
from storage.database.errors import ArtifactError, ArtifactsAwayError
from storage.database.records import AttemptState, StudyRow, TicketState
from storage.database.tables import attempt, ticket
from storage.files import checkpoints, kept_files
from storage.files.artifacts import IMPATIENT_SECONDS, ArtifactStore

log = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"(\d+)/\d+/checkpoint-[^/]*")
_OBJECT = re.compile(checkpoints.OBJECTS + r"/[0-9a-f]{2}/[0-9a-f]{64}\.(\d+)\.(\d+)\.\d+")


def prune(database: Database, store: ArtifactStore, row: StudyRow, best: Callable[[], int | None]) -> None:
    """Remove the weights of trials that are over and not among the best, and what was replaced.

    Safe beside others (see `storage.files.kept_files`). What the store cannot remove now is removed by a
    later call; this never fails.

    Args:
        database: where the rows are.
        store: where the files are.
        row: the study.
        best: says how many trials keep their weights, None for all; asked only when there are any.
            With several directions the front keeps them.
    """

    def release(connection: Connection) -> list[tuple[int, str]]:
        directions = row.spec["directions"]
        kept_files.release_beaten(connection, row.id, row.optuna_study_id, directions, count)
        return kept_files.removable(connection, row.id)

    held = database.read(kept_files.held, row.id)
    if not held.weights and not held.released:
        return
    count = best()
    if not held.released and (count is None or held.weights <= count):
        return
    gone = []
    hasty = store.with_patience(IMPATIENT_SECONDS)
    for number, path in database.write(release):
        try:
            if _removed(hasty, path):
                gone.append(number)
        except ArtifactsAwayError as error:
            log.warning("left for later: %s", error)
            break
    if gone:
        database.write(kept_files.forget, gone)


def tidy(database: Database, store: ArtifactStore, row: StudyRow, trial_id: int, trial: int) -> None:
    """Remove the checkpoints of a trial that is over, but the one its row names; this never fails."""
    hasty = store.with_patience(IMPATIENT_SECONDS)
    try:
        found = checkpoints.stored(hasty, checkpoints.trial_key(row.uid, row.first_name, trial))
        if not found:
            return
        needed = database.read(kept_files.paths_of, row.id, trial_id)
        for key in found:
            if key not in needed:
                _removed(hasty, key)
    except ArtifactError as error:
        log.warning("left for later: %s", error)


def sweep(
    database: Database,
    store: ArtifactStore,
    row: StudyRow,
    best: Callable[[], int | None],
    keeps: Callable[[int], bool] = lambda _ticket: False,
) -> None:
    """What is left when a study ends: prune, and remove files of attempts that died half-way.

    `keeps`: whether a ticket's trial keeps its checkpoints though it was pruned.

    Files are listed before rows are read: what an attempt stores meanwhile is not in the list, and
    what an attempt recorded before it ended has its row. This never fails.
    """
    prune(database, store, row, best)
    folder = checkpoints.study_key(row.uid, row.first_name)
    hasty = store.with_patience(IMPATIENT_SECONDS)
    try:
        found = hasty.all_files(folder)
        needed, open_trials, running = database.read(_in_use, row.id, keeps)
        for key in found:
            name = key.removeprefix(f"{folder}/")
            if key in needed:
                continue
            if match := _CHECKPOINT.fullmatch(name):
                useless = int(match[1]) not in open_trials
            elif match := _OBJECT.fullmatch(name):
                useless = (int(match[1]), int(match[2])) not in running
            else:
                useless = False
            if useless:
                _removed(hasty, key)
    except ArtifactError as error:
        log.warning("left for later: %s", error)


def _removed(store: ArtifactStore, key: str) -> bool:
    """Whether the file is gone; one that cannot be removed, a link on its way, say, keeps no other.

    Raises:
        ArtifactsAwayError: no other can be removed now, either.
    """
    try:
        store.remove(key)
    except ArtifactsAwayError:
        raise
    except ArtifactError as error:
        log.warning("left for later: %s", error)
        return False
    return True


def _in_use(
    connection: Connection, study_id: int, keeps: Callable[[int], bool]
) -> tuple[set[str], set[int], set[tuple[int, int]]]:
    """Paths that rows name; numbers of trials that may go on; (trial, attempt) of attempts that run."""
    needed = kept_files.paths_of(connection, study_id)
    open_ = [state for state in TicketState if not state.ended or state is TicketState.PRUNED]
    rows = connection.execute(
        sa.select(ticket.c.number, ticket.c.trial_number, ticket.c.retry_of, ticket.c.state).where(
            ticket.c.study_id == study_id, ticket.c.state.in_(open_), ticket.c.trial_number.is_not(None)
        )
    ).all()
    going_on = {r.trial_number for r in rows if r.state != TicketState.PRUNED or keeps(r.number)}
    going_on |= {r.retry_of for r in rows if r.state != TicketState.PRUNED}  # a copy's origin
    running = connection.execute(
        sa.select(attempt.c.trial_number, attempt.c.number)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .where(ticket.c.study_id == study_id, attempt.c.state == AttemptState.RUNNING)
    )
    return needed, going_on, {(row.trial_number, row.number) for row in running}
