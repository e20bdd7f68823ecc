"""Commands that steer: pause, resume, stop, cancel, retry, extend, delete. They act within one heartbeat."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.app import StorageOption, StudyArgument, app
from hpo.cli.output import say
from hpo.cli.queries import open_existing, open_study
from hpo.errors import ExitCode, UserError

if TYPE_CHECKING:
    from storage.database.engine import Database
    from storage.database.records import StudyRow, StudyState


@app.command()
def pause(study: StudyArgument, storage: StorageOption = None) -> None:
    """Start nothing new; running trials go on, and the budget of seconds stops counting."""
    from hpo.studies import steering

    _steer(study, storage, steering.pause)


@app.command()
def resume(study: StudyArgument, storage: StorageOption = None) -> None:
    """Go on after a pause or a stop."""
    from hpo.studies import steering

    _steer(study, storage, steering.resume)


@app.command()
def stop(study: StudyArgument, storage: StorageOption = None) -> None:
    """Let running trials finish, then end the study."""
    from hpo.studies import steering

    _steer(study, storage, steering.stop)


@app.command()
def cancel(study: StudyArgument, storage: StorageOption = None) -> None:
    """End the study now, with the trials that run or wait for another attempt."""
    from hpo.studies import steering

    ended = steering.cancel(*open_study(storage, study))
    say(f"{study} is cancelled; {ended} running trials were ended")


@app.command()
def retry(
    target: Annotated[str, typer.Argument(metavar="STUDY[/N]", help="All failed trials, or trial N.")],
    failed: Annotated[bool, typer.Option("--failed", help="All failed trials; so it is anyway.")] = True,
    storage: StorageOption = None,
) -> None:
    """Queue failed trials again; each becomes a new trial of the same ticket.

    A trial that diverged would do so again, so it is queued by its number alone: STUDY/N.
    """
    from hpo.cli.trials import find_trial
    from hpo.studies import steering

    if "/" in target:
        database = open_existing(storage)
        row, record = find_trial(database, target)
        steering.retry_trial(database, row, record.number)
        say(f"{target} waits again{steering.unless_going(database, row)}")
        return
    database, row = open_study(storage, target)
    count = steering.retry_failed(database, row)
    say(
        f"{count} failed trials of {target} wait again{steering.unless_going(database, row)}"
        if count
        else f"{target} has no failed trials"
    )


@app.command()
def extend(
    study: StudyArgument,
    trials: Annotated[str | None, typer.Option("--trials", metavar="+N", help="N more trials.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="New budget of seconds, in all.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="New budget of epochs, in all.")] = None,
    target: Annotated[float | None, typer.Option("--target", help="New target value.")] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="New number of trials without a better result.")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Give a study more budget; one that had ended runs again."""
    from hpo.studies import creation

    more = 0
    if trials is not None:
        number = trials.removeprefix("+")
        if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
            raise UserError(
                f"--trials must be a whole number of further trials, like +50; got {trials[:40]!r}"
            )
        more = int(number)
    budgets = creation.Budgets(seconds=seconds, target=target, epochs=epochs, patience=patience)
    say(creation.standing(creation.extend(*open_study(storage, study), trials=more, **budgets)))


@app.command()
def delete(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    storage: StorageOption = None,
) -> None:
    """Delete a study with its trials and artifacts; also one that is damaged in the database."""
    from hpo.studies import reading, steering
    from storage.history.lists import each_readable
    from storage.queue import studies, tickets

    database = open_existing(storage)

    def look(name: str) -> tuple[StudyRow, str]:
        row = reading.get_study(database, name)
        counts = database.read(lambda connection: tickets.counts(connection, row.id))
        return row, f"{counts.ended + counts.running} trials and their artifacts"

    found, damaged = each_readable([study], look)
    for why in damaged.values():
        say(why)
        found = [
            (database.read(lambda connection: studies.ruin(connection, study)), "all that is there of it")
        ]
    ((row, what),) = found
    if not yes:
        print(f"Delete {study} with {what}? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was deleted")
            raise typer.Exit(ExitCode.FAILED)
    steering.delete(database, row)
    say(f"{study} is deleted")


def _steer(study: str, storage: str | None, verb: Callable[[Database, StudyRow], StudyState]) -> None:
    say(f"{study} is {verb(*open_study(storage, study))}")
