"""Commands that steer: pause, resume, stop, cancel, retry, extend, delete. They act within one heartbeat."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.app import StorageOption, StudyArgument, app
from hpo.cli.output import say
from hpo.cli.queries import open_existing, open_study
from hpo.errors import ExitCode, UserError
from hpo.text import counted

if TYPE_CHECKING:
    from storage.database.records import StudyRow


def _add_steering(verb: str, told: str) -> None:
    """A command that brings a study into another state and says which."""

    @app.command(verb, help=told)
    def steer(study: StudyArgument, storage: StorageOption = None) -> None:
        from hpo.studies import steering

        say(f"{study} is {getattr(steering, verb)(*open_study(storage, study))}")


_add_steering("pause", "Start nothing new; running trials go on, and the budget of seconds stops counting.")
_add_steering("resume", "Go on after a pause or a stop.")
_add_steering("stop", "Let running trials finish, then end the study.")


@app.command()
def cancel(study: StudyArgument, storage: StorageOption = None) -> None:
    """End the study now, with the trials that run or wait for another attempt."""
    from hpo.studies import steering

    ended = steering.cancel(*open_study(storage, study))
    ends = counted(ended, "running trial was ended", "running trials were ended")
    say(f"{study} is cancelled; {ends}")


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
        f"{counted(count, 'failed trial waits', 'failed trials wait')} again in {target}"
        f"{steering.unless_going(database, row)}"
        if count
        else f"{target} has no failed trials"
    )


@app.command()
def extend(
    study: StudyArgument,
    trials: Annotated[str | None, typer.Option(metavar="+N", help="N more trials.")] = None,
    seconds: Annotated[float | None, typer.Option(help="New budget of seconds, in all.")] = None,
    epochs: Annotated[int | None, typer.Option(help="New budget of epochs, in all.")] = None,
    target: Annotated[float | None, typer.Option(help="New target value.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="New number of trials without a better result.")
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
        counts = database.read(tickets.counts, row.id)
        return row, f"{counts.ended + counts.running} trials and their artifacts"

    found, damaged = each_readable([study], look)
    for why in damaged.values():
        say(why)
        found = [(database.read(studies.ruin, study), "all that is there of it")]
    ((row, what),) = found
    if not yes:
        print(f"Delete {study} with {what}? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was deleted")
            raise typer.Exit(ExitCode.FAILED)
    steering.delete(database, row)
    say(f"{study} is deleted")


@app.command()
def mark(
    target: Annotated[str, typer.Argument(metavar="STUDY[/N,N]", help="Trials, or the study itself.")],
    star: Annotated[bool | None, typer.Option("--star/--no-star", help="Star it, or take that back.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Tag it; -WORD takes one away. Repeat it.")
    ] = None,
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help='A note in place of its last; "": none.')
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Star, tag or note something with trials: `hpo trials STUDY --where 'star tag=good'` finds them.

    They are user attributes of Optuna's trials, hpo:star, hpo:tags and hpo:note. A study has a note alone.
    """
    from hpo.studies import steering
    from hpo.studies.reading import get_study

    study, _, numbers = target.partition("/")
    database = open_existing(storage)
    trials = steering.numbers_in(numbers)
    say(steering.mark(database, get_study(database, study), trials, star=star, tags=tag or (), note=note))
