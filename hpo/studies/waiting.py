"""Wait for something to happen to a study, whoever runs it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hpo.errors import UserError
from hpo.studies import confirmed
from storage.database.engine import Database, Transaction
from storage.database.errors import DatabaseUnreachableError
from storage.history.lists import Progress, progress

_LOOK = 0.5  # seconds between two looks
CONFIRMED = "confirmed"
Seen = TypeVar("Seen")
Away = Callable[[DatabaseUnreachableError], None]


def looks(
    database: Database, read: Callable[[Transaction], Seen], away: Away, seconds: float = math.inf
) -> Iterator[Seen]:
    """What is read now, and again and again until the seconds are over.

    A database that goes away after the first time is waited for; `away` is told, once.
    """
    until = time.monotonic() + seconds
    yield database.read(read)
    told = False
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(_LOOK, left))
        try:
            found = database.read(read)
        except DatabaseUnreachableError as error:
            if not told:
                away(error)
            told = True
        else:
            yield found


def wait(
    database: Database, study: str, what: str, seconds: float = math.inf, away: Away = lambda _error: None
) -> tuple[str, Progress]:
    """What happened, and how the study stands then: `what`; `end`, where it has ended without it; `timeout`.

    Args:
        database: the one it is in.
        study: its name.
        what: end; best, a better result than now; failure, also one there is; trials=50; confirmed.
        seconds: to wait at most.
        away: told once, where the database goes away; that is waited for, too.

    Raises:
        UnknownStudyError; UserError: nothing of that name can be waited for.
    """
    happened: Callable[[Progress], bool] | None = None
    for now in looks(database, lambda connection: progress(connection, study), away, seconds):
        happened = happened or _sought(database, what, now)
        if happened(now):
            return what, now
        if now.row.state.ended and what != CONFIRMED:
            return "end", now
    return "timeout", now


def _sought(database: Database, what: str, before: Progress) -> Callable[[Progress], bool]:
    """Tells whether it has happened.

    Raises:
        UserError: it is nothing that can be waited for.
    """
    if what == "end":
        return lambda now: now.row.state.ended
    if what == "failure":
        return lambda now: now.counts.failed + now.counts.diverged > 0
    if what == "best":
        if len(before.row.spec["directions"]) > 1:
            raise UserError("a study of several directions has no best trial; wait for end or trials=50")
        return lambda now: now.best_number not in (None, before.best_number)
    if match := re.fullmatch(r"trials=(\d{1,9})", what):
        return lambda now: now.counts.ended >= int(match[1])
    if what == CONFIRMED:

        def is_confirmed(now: Progress) -> bool:
            found = database.read(confirmed.of, now.row)
            return found is not None and found.done

        return is_confirmed
    raise UserError(
        f"what is waited for is one of end, best, failure, trials=50, confirmed; got {what[:40]!r}"
    )
