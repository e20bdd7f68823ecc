"""The command that waits: for a study's end, a better result, a failure, so many trials."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import print_json, say
from hpo.cli.queries import open_existing
from hpo.errors import ExitCode, UserError

if TYPE_CHECKING:
    from storage.history.lists import Progress

_LOOK = 1.0  # seconds between two looks


@app.command()
def wait(
    study: StudyArgument,
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="WHAT",
            help="end; best: a better result than now; failure: a failed trial, also one there is; "
            "trials=50: so many have ended.",
        ),
    ] = "end",
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="Give up after 90s, 10m or 2h.")
    ] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Wait until something has happened to a study, whoever runs it.

    Exit codes: 0 it has; 1 the study has ended without it; 124 the time is over.
    """
    from hpo.worker.limits import parse_seconds
    from storage.database.errors import DatabaseUnreachableError
    from storage.history.lists import progress

    until = None if timeout is None else time.monotonic() + parse_seconds(timeout, "--timeout")
    database = open_existing(storage)
    now = database.read(lambda connection: progress(connection, database.clock, study))
    happened = _sought(for_, now)
    told = False
    while True:
        ended = now.row.state.ended
        if (seen := happened(now)) or ended:
            return _tell(format_, for_ if seen else "end", now, ExitCode.DONE if seen else ExitCode.FAILED)
        left = math.inf if until is None else until - time.monotonic()
        if left <= 0:
            return _tell(format_, "timeout", now, ExitCode.TIMEOUT)
        time.sleep(min(_LOOK, left))
        try:
            now = database.read(lambda connection: progress(connection, database.clock, study))
        except DatabaseUnreachableError as error:
            if not told:
                say(f"{error}; waiting for it, too")
            told = True


def _sought(what: str, before: Progress) -> Callable[[Progress], bool]:
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
    raise UserError(f"--for is one of end, best, failure, trials=50; got {what[:40]!r}")


def _tell(format_: Format, happened: str, now: Progress, code: int) -> int:
    counts, best = now.counts, now.best_value
    if format_ is Format.JSON:
        found = {"happened": happened, "study": now.row.name, "state": now.row.state.value}
        print_json(
            {
                **found,
                "done": counts.ended,
                "failed": counts.failed,
                "best_trial": now.best_number,
                "best_value": best,
            }
        )
        return code
    reached = "" if best is None else f"; the best is trial {now.best_number} with {best:.6g}"
    why = "the time is over: " if happened == "timeout" else ""
    say(f"{why}{now.row.name} is {now.row.state.value}, {counts.ended} trials have ended{reached}")
    return code
