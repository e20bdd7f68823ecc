"""Steer a study: pause, resume, stop, cancel, retry, delete. Acts on every machine within one heartbeat."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from hpo.errors import HpoError, UserError
from storage.database.engine import Database, Transaction
from storage.database.errors import ArtifactError
from storage.database.records import StudyRow, StudyState, WorkerState
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore
from storage.history.records import NOTE, STAR, TAGS
from storage.history.trials import Part, ids_of, read_trials
from storage.queue import events, outcomes, repeats, studies, workers

MAX_NOTE = 2000  # characters
MAX_TAGS = 20  # of a trial
MAX_MARKED = 500  # trials at once
_TAG = re.compile(r"-?\w[\w.+-]{0,39}")
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
        now = database.read(studies.get, row.name)
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
        ended = studies.cancel(connection, row.id)
        if going or any(ended):
            note(connection, database, row, "cancel", running=ended[0], waiting=ended[1])
        return ended

    running, waiting = database.write_once(verb)
    if not waiting:
        _demand_going(row, "cancel")
    return running


def retry_failed(database: Database, row: StudyRow, trial: int | None = None) -> int:
    """Queue every failed trial again, or one `trial`, as a new trial of the same ticket; returns how many.

    Of all of them diverged ones stay as they are: their settings would diverge again.
    """

    def verb(connection: Transaction) -> int:
        count = studies.retry_failed(connection, row.id, trial)
        if count:
            note(connection, database, row, "retry", trial=trial, trials=count)
        return count

    return database.write_once(verb)


def unless_going(database: Database, row: StudyRow) -> str:
    """What to add to "waits again" where the study does not run: why, and what lets it go on."""
    now = database.read(studies.get, row.name)
    if now.state is StudyState.RUNNING:
        return ""
    why = f" ({now.ended_why})" if now.ended_why else ""
    return f". {row.name} is {now.state}{why}; {how_to_go_on(now)}"


def retry_trial(database: Database, row: StudyRow, trial: int) -> None:
    """Queue one failed or diverged trial again, as a new trial of the same ticket.

    Raises:
        UserError: it has neither failed nor diverged, or waits again already.
    """
    if not retry_failed(database, row, trial):
        raise UserError(
            f"{row.name}/{trial} cannot be retried: it has neither failed nor diverged, or another trial "
            f"repeats it already; `hpo trials {row.name}` lists them"
        )


def numbers_in(text: str) -> list[int]:
    """Trials as "3,17"; "" names none.

    Raises:
        UserError: something else stands there.
    """
    words = [word.strip() for word in text.split(",")] if text else []
    if any(not (word.isascii() and word.isdigit() and len(word) < 10) for word in words):
        raise UserError(f"name trials by their numbers, like 3,17; got {text[:80]!r}")
    return [int(word) for word in words]


def mark(
    database: Database,
    row: StudyRow,
    trials: Collection[int],
    *,
    star: bool | None = None,
    tags: Sequence[str] = (),
    note: str | None = None,
) -> str:
    """Star, tag or note something with trials, or with none of them a note with the study; says what it did.

    Args:
        database: of the study.
        row: the study.
        trials: numbers.
        star: None leaves it.
        tags: words, each added; "-word" is taken away.
        note: "" takes it away, None leaves it.

    Raises:
        UserError: no such trial, or what cannot be a mark.
    """
    bad = next((tag for tag in tags if not _TAG.fullmatch(tag)), None)
    if bad is not None:
        raise UserError(f"a tag is a word of letters, digits and ._+- of at most 40 signs, not {bad[:60]!r}")
    if note is not None and len(note) > MAX_NOTE:
        raise UserError(f"a note has at most {MAX_NOTE:,} characters, this one {len(note):,}")
    if not trials and (star is not None or tags):
        raise UserError(f"say which trials to star or tag: {row.name}/3, or {row.name}/3,17")
    if len(trials) > MAX_MARKED:
        raise UserError(f"at most {MAX_MARKED} trials can be marked at once, not {len(trials):,}")
    if star is None and note is None and not tags:
        raise UserError("say what to mark it with: a star, a tag or a note")

    def verb(connection: Transaction) -> None:
        ids = ids_of(connection, row, trials)
        if missing := set(trials) - ids.keys():
            raise UserError(f"{row.name} has no trial {min(missing)}")
        marks: dict[int, dict[str, Any]] = {}
        for i, trial in read_trials(connection, row, ids.values(), with_=Part.ATTRIBUTES).items():
            left = {tag for tag in (*trial.tags, *tags) if not tag.startswith("-") and f"-{tag}" not in tags}
            if len(left) > MAX_TAGS:
                raise UserError(f"a trial has at most {MAX_TAGS} tags")
            new = {STAR: star, TAGS: sorted(left) if tags else None, NOTE: note}
            marks[i] = {name: value for name, value in new.items() if value is not None}
        studies.mark(connection, row, None if trials else note, marks)
        told = {"trials": sorted(trials) or None, "star": star, "tags": [*tags] or None, "note": note}
        events.add(connection, row.id, "mark", database.who, told)

    database.write_once(verb)
    which = ",".join(map(str, sorted(trials)))
    return f"{row.name}/{which} marked" if trials else f"the note of {row.name} is kept"


def set_aside(database: Database, row: StudyRow) -> str:
    """Stop the study and give it another name, with its trials and files, so that its own is free.

    Raises:
        UserError: a worker serves it.
    """

    def aside(connection: Transaction) -> str | None:
        known = workers.all_workers(connection, row.id)
        if any(
            one.study == row.name and one.state is not WorkerState.LEFT and one.silent_for < _GONE
            for one in known
        ):
            return None
        found = studies.set_aside(connection, row.id)
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
    its = database.read(repeats.every, row.id)
    studies.delete(database, row)
    for uid in [row.uid, *(one.uid for one in its)]:
        folder = checkpoints.study_key(uid, row.first_name)
        try:
            ArtifactStore(row.artifacts).remove(folder)
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
    after = studies.set_state(connection, row.id, wanted)
    if after is not before:
        note(connection, database, row, what)
    return after


def note(connection: Transaction, database: Database, row: StudyRow, what: str, **details: Any) -> None:
    """Remember, in the act's own transaction, that it was done, and by whom; details of None are left out."""
    events.add(connection, row.id, what, database.who, details)


def why_ended(row: StudyRow) -> str:
    """Why a study has ended, for people."""
    from hpo.spec import StudySpec  # which commands that only steer do without

    if row.ended_why == outcomes.ALL_DONE and StudySpec.model_validate(row.spec).is_exhaustive:
        return f"{row.ended_why}, which was every setting of its space"
    return row.ended_why or ""


def has_ended(row: StudyRow) -> str:
    """That a study has ended, why, and what lets it go on."""
    return f"{row.name} is {row.state}: {why_ended(row)}; {how_to_go_on(row)}"


def how_to_go_on(row: StudyRow) -> str:
    """What lets a study go on that does not run."""
    if row.state is not StudyState.FINISHED and row.ended_why not in outcomes.BY_BUDGET:
        return f"`hpo resume {row.name}` lets it go on"
    more = {
        outcomes.TARGET_REACHED: "--target VALUE` sets it a further one",
        outcomes.SECONDS_SPENT: "--seconds N` gives it more, in all",
        outcomes.PATIENCE_SPENT: f"--patience N` gives it more than {row.budget_patience}",
    }
    return f"`hpo extend {row.name} {more.get(row.ended_why or '', '--trials +N` gives it more')}"


def _served(database: Database, row: StudyRow) -> StudyRow:
    """The study; once it has ended, what of it is trained again, if anything is."""
    found = database.read(repeats.going, row.id) if row.state.ended else None
    return found or row


def _demand_going(row: StudyRow, verb: str) -> None:
    if row.state.ended:
        raise UserError(f"{row.name} is {row.state}; there is nothing to {verb}")


def _set(database: Database, row: StudyRow, what: str, wanted: StudyState) -> StudyState:
    return database.write_once(set_state, database, row, what, wanted)
