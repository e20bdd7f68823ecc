"""The command that waits: for a study's end, a better result, a failure, so many trials."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import print_json, say
from hpo.cli.queries import open_existing
from hpo.errors import ExitCode


@app.command()
def wait(
    study: StudyArgument,
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="WHAT",
            help="end; best: a better result than now; failure: a failed trial, also one there is; "
            "trials=50: so many have ended; confirmed: `hpo confirm` is through.",
        ),
    ] = "end",
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Give up after 90s, 10m or 2h.")] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Wait until something has happened to a study, whoever runs it.

    Exit codes: 0 it has; 1 the study has ended without it; 124 the time is over.
    """
    from hpo.studies.waiting import wait as wait_for
    from hpo.worker.limits import parse_seconds

    seconds = math.inf if timeout is None else parse_seconds(timeout, "--timeout")
    database = open_existing(storage)
    happened, now = wait_for(
        database, study, for_, seconds, lambda error: say(f"{error}; waiting for it, too")
    )
    code = {"timeout": ExitCode.TIMEOUT, for_: ExitCode.DONE}.get(happened, ExitCode.FAILED)
    counts, best = now.counts, now.best_value
    if format_ is Format.JSON:
        found = {"happened": happened, "study": now.row.name, "state": now.row.state.value}
        reached = {"best_trial": now.best_number, "best_value": best}
        print_json({**found, "done": counts.ended, "failed": counts.failed, **reached})
        return code
    told = "" if best is None else f"; the best is trial {now.best_number} with {best:.6g}"
    why = "the time is over: " if happened == "timeout" else ""
    say(f"{why}{now.row.name} is {now.row.state.value}, {counts.ended} trials have ended{told}")
    return code
