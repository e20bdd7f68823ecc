"""Wait for something to happen to a study, whoever runs it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

from hpo.errors import UserError
from hpo.studies import confirmed
from storage.database.engine import Database
from storage.database.errors import DatabaseUnreachableError
from storage.history.lists import Progress, progress

_LOOK = 1.0  # seconds between two looks
CONFIRMED = "confirmed"


def wait(
    database: Database,
    study: str,
    what: str,
    seconds: float = math.inf,
    away: Callable[[DatabaseUnreachableError], None] = lambda _error: None,
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
    until = time.monotonic() + seconds
    now = database.read(lambda connection: progress(connection, database.clock, study))
    happened = _sought(database, what, now)
    told = False
    while True:
        if happened(now):
            return what, now
        if now.row.state.ended and what != CONFIRMED:
            return "end", now
        left = until - time.monotonic()
        if left <= 0:
            return "timeout", now
        time.sleep(min(_LOOK, left))
        try:
            now = database.read(lambda connection: progress(connection, database.clock, study))
        except DatabaseUnreachableError as error:
            if not told:
                away(error)
            told = True


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
        return lambda now: _is_confirmed(database, now)
    raise UserError(
        f"what is waited for is one of end, best, failure, trials=50, confirmed; got {what[:40]!r}"
    )


def _is_confirmed(database: Database, now: Progress) -> bool:
    found = database.read(lambda connection: confirmed.of(connection, now.row))
    return found is not None and found.done
