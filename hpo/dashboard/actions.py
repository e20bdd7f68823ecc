"""What a person with the token may do: the same functions the command line calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hpo.dashboard.board import Board
from hpo.errors import NotFoundError, UserError
from hpo.spec.reading import read_point
from hpo.studies import creation, steering
from hpo.text import counted
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.queue import tickets

MAX_NUMBER = 1_000_000_000  # of a trial; what a database's integer holds


def act(
    board: Board, study: str, action: str, form: Mapping[str, Any], who: str, token: str | None = None
) -> str:
    """Do one action of `ACTIONS` for somebody, within the limits of that token; says what was done.

    Raises:
        NotFoundError: no such study or action. UserError: it does not fit the study. DatabaseError
    """
    verb = ACTIONS.get(action)
    if verb is None:
        raise NotFoundError(f"there is no action {action[:40]!r}; there are {', '.join(ACTIONS)}")
    return verb(board.database.acting_as(who, token), board.row(study), form)


QUESTIONS = {  # what is asked before; {failed} is how many trials have failed
    "stop": "Let running trials finish, then end the study?",
    "cancel": "End the study now? Trials that run are lost.",
    "retry": "Run {failed} again? Each becomes a new trial.",
}


def question(
    board: Board, study: str, action: str, form: Mapping[str, Any]
) -> tuple[str, dict[str, str]] | None:
    """What to ask a person first, and the form that says yes to it; None where nothing needs to be asked.

    Raises:
        NotFoundError: no such study. UserError: no trial has failed. DatabaseError
    """
    if action not in QUESTIONS or form.get("sure") or form.get("trial"):
        return None
    row = board.row(study)
    yes = {"sure": "1"}
    failed = ""
    if action == "retry":
        count = _failed(board.database, row)
        if not count:
            raise UserError(f"{row.name} has no failed trials")
        failed = "the failed trial" if count == 1 else f"the {count:,} failed trials"
        yes["count"] = str(count)
    return QUESTIONS[action].format(failed=failed), yes


def _failed(database: Database, row: StudyRow) -> int:
    return database.read(tickets.counts, row.id).failed


def _pause(database: Database, row: StudyRow, _form: Mapping[str, Any]) -> str:
    return f"{row.name} is {steering.pause(database, row)}"


def _resume(database: Database, row: StudyRow, _form: Mapping[str, Any]) -> str:
    return f"{row.name} is {steering.resume(database, row)}"


def _stop(database: Database, row: StudyRow, _form: Mapping[str, Any]) -> str:
    return f"{row.name} is {steering.stop(database, row)}; running trials finish first"


def _cancel(database: Database, row: StudyRow, _form: Mapping[str, Any]) -> str:
    ended = steering.cancel(database, row)
    ends = counted(ended, "running trial was ended", "running trials were ended")
    return f"{row.name} is cancelled; {ends}"


def _retry(database: Database, row: StudyRow, form: Mapping[str, Any]) -> str:
    trial = _number(form, "trial", int)
    if trial is not None:
        if not 0 <= trial < MAX_NUMBER:
            raise UserError(f"{row.name} has no trial {str(trial)[:40]}")
        steering.retry_trial(database, row, trial)
        return f"{row.name}/{trial} waits again, as a new trial{steering.unless_going(database, row)}"
    expected = _number(form, "count", int)
    failed = _failed(database, row)
    if expected is not None and expected != failed:
        raise UserError(f"{failed:,} trials of {row.name} have failed by now, not {expected:,}; look again")
    count = steering.retry_failed(database, row)
    return (
        f"{counted(count, 'failed trial waits', 'failed trials wait')} again"
        f"{steering.unless_going(database, row)}"
        if count
        else f"{row.name} has no failed trials"
    )


def _extend(database: Database, row: StudyRow, form: Mapping[str, Any]) -> str:
    trials = _number(form, "trials", int) or 0
    if trials < 0:
        raise UserError(f"trials must be above 0, got {trials}")
    seconds, target = _number(form, "seconds", float), _number(form, "target", float)
    if seconds is not None and not 0 < seconds < 1e9:
        raise UserError(f"seconds must be above 0, got {seconds:g}")
    epochs, patience = _number(form, "epochs", int), _number(form, "patience", int)
    after = creation.extend(
        database, row, trials=trials, seconds=seconds, target=target, epochs=epochs, patience=patience
    )
    return creation.standing(after)


def _enqueue(database: Database, row: StudyRow, form: Mapping[str, Any]) -> str:
    point = form.get("point", "")
    if not isinstance(point, Mapping):
        point = read_point(str(point).replace(",", " ").split())
    why = form.get("why")
    number, when = creation.enqueue(database, row, point, why=str(why) if why else None)
    return f"ticket {number} of {row.name} will try {json.dumps(dict(point))}{when}"


def _mark(database: Database, row: StudyRow, form: Mapping[str, Any]) -> str:
    star, note = form.get("star"), form.get("note")
    return steering.mark(
        database,
        row,
        steering.numbers_in(str(form.get("trial", ""))),
        star=None if star in (None, "") else str(star).lower() in ("1", "true"),
        tags=str(form.get("tags") or "").replace(",", " ").split(),
        note=None if note is None else str(note).strip(),
    )


def _delete(database: Database, row: StudyRow, form: Mapping[str, Any]) -> str:
    if form.get("name") != row.name:
        raise UserError(f"type the study's name, {row.name}, to delete it with its trials and files")
    steering.delete(database, row)
    return f"{row.name} is deleted"


def _number(form: Mapping[str, Any], name: str, kind: Callable[[str], Any]) -> Any:
    raw = form.get(name)
    if raw is None or raw == "":
        return None
    try:
        return kind(str(raw).removeprefix("+"))
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} must be {what}, got {str(raw)[:40]!r}") from None


ACTIONS: dict[str, Callable[[Database, StudyRow, Mapping[str, Any]], str]] = {
    "pause": _pause,
    "resume": _resume,
    "stop": _stop,
    "cancel": _cancel,
    "retry": _retry,
    "extend": _extend,
    "enqueue": _enqueue,
    "mark": _mark,
    "delete": _delete,
}
