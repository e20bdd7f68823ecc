"""Steer a study: pause, resume, stop, cancel, retry, delete. Acts on every machine within one heartbeat."""

from __future__ import annotations

from typing import Any

from hpo.errors import HpoError, UserError
from hpo.wiring import open_artifacts
from storage.database.engine import Database, Transaction
from storage.database.errors import ArtifactError
from storage.database.records import StudyRow, StudyState, WorkerState
from storage.files import checkpoints
from storage.queue import events, outcomes, repeats, studies, workers

_GONE = 15.0  # seconds without a beat, after which a worker is taken for dead


def pause(database: Database, row: StudyRow) -> StudyState:
    """Start nothing new; what runs goes on, and the budget of seconds stops counting.

    Raises:
        UserError: the study has ended.
    """
    _demand_going(row, "pause")
    return _set(database, row, "pause", StudyState.PAUSED)


def resume(database: Database, row: StudyRow) -> StudyState:
    """Go on after a pause or a stop.

    Raises:
        UserError: the study's budget is spent.
    """
    state = _set(database, row, "resume", StudyState.RUNNING)
    if state is StudyState.FINISHED:
        now = database.read(lambda connection: studies.get(connection, row.name))
        raise UserError(f"{row.name} is finished ({now.ended_why}); {how_to_go_on(now)}")
    return state


def stop(database: Database, row: StudyRow) -> StudyState:
    """Finish what runs, then end. `resume` goes on later. Of a study that has ended, its confirmation stops.

    Raises:
        UserError: the study has ended, and nothing confirms it.
    """
    row = _served(database, row)
    _demand_going(row, "stop")
    return _set(database, row, "stop", StudyState.STOPPING)


def cancel(database: Database, row: StudyRow) -> int:
    """End at once; returns how many running trials were ended. Their workers stop at the next heartbeat.

    Trials that wait for another attempt end too, also those of a study that has been stopped. Of a study that
    has ended, its confirmation ends: what of it ran waits until it is asked for again.

    Raises:
        UserError: the study has ended, and no trial waits.
    """
    row = _served(database, row)

    def verb(connection: Transaction) -> tuple[int, int]:
        going = not studies.get(connection, row.name).state.ended
        ended = studies.cancel(connection, database.clock, row.id)
        if going or any(ended):
            note(connection, database, row, "cancel", running=ended[0], waiting=ended[1])
        return ended

    running, waiting = database.write_once(verb)
    if not waiting:
        _demand_going(row, "cancel")
    return running


def retry_failed(database: Database, row: StudyRow) -> int:
    """Queue every failed trial again, as a new trial of the same ticket; returns how many.

    Diverged ones stay as they are: their settings would diverge again.
    """
    return _retried(database, row)


def unless_going(database: Database, row: StudyRow) -> str:
    """What to add to "waits again" where the study does not run: why, and what lets it go on."""
    now = database.read(lambda connection: studies.get(connection, row.name))
    if now.state is StudyState.RUNNING:
        return ""
    why = f" ({now.ended_why})" if now.ended_why else ""
    return f". {row.name} is {now.state}{why}; {how_to_go_on(now)}"


def retry_trial(database: Database, row: StudyRow, trial: int) -> None:
    """Queue one failed or diverged trial again, as a new trial of the same ticket.

    Raises:
        UserError: it has neither failed nor diverged, or waits again already.
    """
    if not _retried(database, row, trial):
        raise UserError(
            f"{row.name}/{trial} cannot be retried: it has neither failed nor diverged, or another trial "
            f"repeats it already; `hpo trials {row.name}` lists them"
        )


def set_aside(database: Database, row: StudyRow) -> str:
    """Stop the study and give it another name, with its trials and files, so that its own is free.

    Raises:
        UserError: a worker serves it.
    """

    def aside(connection: Transaction) -> str | None:
        known = workers.all_workers(connection, database.clock, row.id)
        if any(
            one.study == row.name and one.state is not WorkerState.LEFT and one.silent_for < _GONE
            for one in known
        ):
            return None
        found = studies.set_aside(connection, database.clock, row.id)
        if found is not None:
            note(connection, database, row, "rename", before=row.name)
        return found

    name = database.write_once(aside)
    if name is None:
        raise UserError(
            f"a worker still serves {row.name}, so it cannot be set aside; `hpo workers {row.name}` lists "
            f"them, `hpo cancel {row.name}` ends what runs"
        )
    return name


def delete(database: Database, row: StudyRow) -> None:
    """Delete the study, its trials and its files.

    Raises:
        HpoError: the study is gone, but its files could not be removed.
    """
    its = database.read(lambda connection: repeats.every(connection, row.id))
    studies.delete(database, row)
    for uid in [row.uid, *(one.uid for one in its)]:
        folder = checkpoints.study_key(uid, row.first_name)
        try:
            open_artifacts(row.artifacts).remove(folder)
        except ArtifactError as error:
            raise HpoError(
                f"{row.name} is deleted, but its files are still there: {error}. "
                f"Remove {row.artifacts}/{folder} by hand"
            ) from error


def set_state(
    connection: Transaction, database: Database, row: StudyRow, what: str, wanted: StudyState
) -> StudyState:
    """Bring the study into a state, in a transaction; returns the one it is in then.

    Raises:
        UnknownStudyError: it was deleted.
    """
    before = studies.get(connection, row.name).state
    after = studies.set_state(connection, database.clock, row.id, wanted)
    if after is not before:
        note(connection, database, row, what)
    return after


def note(connection: Transaction, database: Database, row: StudyRow, what: str, **details: Any) -> None:
    """Remember, in the act's own transaction, that it was done, and by whom; details of None are left out."""
    events.add(connection, database.clock, row.id, what, database.who, details)


def how_to_go_on(row: StudyRow) -> str:
    """What lets a study go on that does not run."""
    if row.state is not StudyState.FINISHED and row.ended_why not in outcomes.BY_BUDGET:
        return f"`hpo resume {row.name}` lets it go on"
    if row.ended_why == outcomes.TARGET_REACHED:
        return f"`hpo extend {row.name} --target VALUE` sets it a further one"
    if row.ended_why == outcomes.SECONDS_SPENT:
        return f"`hpo extend {row.name} --seconds N` gives it more, in all"
    if row.ended_why == outcomes.PATIENCE_SPENT:
        return f"`hpo extend {row.name} --patience N` gives it more than {row.budget_patience}"
    return f"`hpo extend {row.name} --trials +N` gives it more"


def _served(database: Database, row: StudyRow) -> StudyRow:
    """The study; once it has ended, what of it is trained again, if anything is."""
    found = database.read(lambda connection: repeats.going(connection, row.id)) if row.state.ended else None
    return found or row


def _demand_going(row: StudyRow, verb: str) -> None:
    if row.state.ended:
        raise UserError(f"{row.name} is {row.state}; there is nothing to {verb}")


def _retried(database: Database, row: StudyRow, trial: int | None = None) -> int:
    def verb(connection: Transaction) -> int:
        count = studies.retry_failed(connection, database.clock, row.id, trial)
        if count:
            note(connection, database, row, "retry", trial=trial, trials=count)
        return count

    return database.write_once(verb)


def _set(database: Database, row: StudyRow, what: str, wanted: StudyState) -> StudyState:
    return database.write_once(lambda connection: set_state(connection, database, row, what, wanted))
