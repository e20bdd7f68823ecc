"""Commands that look at trials: trials, trial, why, logs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import assigned, cell, print_json, print_rows, print_table, say, shown_lines, shown_log
from hpo.cli.queries import open_existing, open_study
from hpo.errors import ExitCode, NotFoundError, UserError

if TYPE_CHECKING:
    from storage.database.engine import Database
    from storage.database.records import StudyRow
    from storage.history.records import TrialRecord

LOG_PART = 1_000_000  # bytes of a log that are read at once
TrialArgument = Annotated[
    str, typer.Argument(metavar="STUDY/TRIAL", help="A trial by number, for example digits/17.")
]


@app.command()
def trials(
    study: StudyArgument,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITIONS",
            help="Only trials that meet all of them: 'lr<0.01 optimizer=adam state=complete best=10%'. "
            "Signs: = != < <= > >= ~ (contains); a=b,c is either; front=true with several directions.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="By a column, parameter or metric; -NAME descends. By number else."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="These, with commas: number,value,lr,validation_loss. A metric is its last value; min:NAME "
            "and max:NAME are its extremes.",
        ),
    ] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """List a study's trials with their parameters, values, attempts and workers."""
    from hpo.studies import answers, selection
    from storage.history.trials import Part, history_of, read_metrics, read_trials
    from storage.queue import tickets

    database, row = open_study(storage, study)
    chosen = [name.strip() for name in columns.split(",")] if columns else []
    parts = Part.WHOLE if format_ is Format.JSON else Part.LINE
    read = database.read(read_trials, row, with_=parts)
    every = history_of(row, read.values())
    names = [(sort or "number").removeprefix("-"), *chosen]
    wanted = selection.metrics_in(every.trials, where or (), names)
    if wanted and Part.METRICS not in parts:
        measured = database.read(read_metrics, read, wanted)
        every = selection.with_metrics(every, {read[i].number: found for i, found in measured.items()})
    found = selection.select(every, where or (), sort=sort, limit=limit)
    waiting = database.read(tickets.counts, row.id).shown_in(row.state).waiting
    nothing = "no trial meets this" if read else f"{study} has no trials yet; {waiting} wait for a worker"
    if chosen:
        selection.check_names(chosen, every.trials)
        picked = [{name: selection.look_up(trial, name) for name in chosen} for trial in found]
        print_rows(format_, picked, chosen, nothing)
        return
    if format_ is Format.JSON:
        print_json(answers.plain([answers.trial(trial) for trial in found]))
        return
    shown = ["number", "state", "value", "params", "steps", "attempts", "runner", "seconds"]
    if any(trial.broken for trial in found):
        shown.insert(3, "breaks")
    if any(trial.error for trial in found):
        shown.append("error")
    rows = [
        {name: selection.FIELDS[name](trial) for name in shown if name in selection.FIELDS}
        | {"value": trial.values, "params": assigned(trial.params), "breaks": ", ".join(trial.broken)}
        for trial in found
    ]
    print_rows(format_, rows, shown, nothing, spare=("runner",))


@app.command()
def trial(name: TrialArgument, storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """Show one trial: parameters, reports, artifacts, every attempt with its worker and traceback."""
    from hpo.studies import answers

    database = open_existing(storage)
    row, record = find_trial(database, name)
    found = answers.plain(answers.trial_detail(database, row, record))
    if format_ is Format.JSON:
        print_json(found)
        return
    lines: list[tuple[str, Any]] = [
        ("number", record.number),
        ("state", record.state),
        ("values", record.values),
        ("params", assigned(record.params)),
    ]
    if record.user_attrs:
        lines.append(("user attributes", assigned(record.user_attrs)))
    if record.constraints:
        kept = "feasible" if record.feasible else f"breaks {', '.join(record.broken)}"
        lines.append(("constraints", f"{kept}: {cell(dict(record.constraints))}"))
    lines += [("reports", f"{len(record.reports)} steps"), ("metrics", ", ".join(record.metrics) or "-")]
    lines += [(key, found[key]) for key in ("worker", "device", "started", "finished", "seconds")]
    lines += [("artifacts", ", ".join(item["name"] for item in found["artifacts"]) or "-")]
    print_table(("", ""), lines, title=name)
    print(found["why"])
    for attempt in found["attempts_list"]:
        head = f"attempt {attempt['number']}: {attempt['state']} on {attempt['worker']} ({attempt['device']})"
        if attempt["seconds"] is not None:
            head += f", {attempt['seconds']:.3g} s"
        if attempt["resumed_from"] is not None:
            head += f", from step {attempt['resumed_from']}"
        if attempt["peak_memory"] is not None:
            head += f", peak memory {attempt['peak_memory'] / 2**20:.0f} MiB"
        print(head)
        if attempt["error"]:
            print("  " + shown_lines(str(attempt["error"]).rstrip()).replace("\n", "\n  "))


@app.command()
def why(
    name: Annotated[
        str, typer.Argument(metavar="STUDY[/TRIAL]", help="A trial (digits/17), or all of a study.")
    ],
    storage: StorageOption = None,
) -> int:
    """Say who chose a trial's point and what was known then; ask TPE or GP again. Exit 1 if that differs."""
    from hpo.studies import reading
    from hpo.studies.why import asked_again
    from hpo.studies.why import why as told

    if "/" in name:
        database = open_existing(storage)
        row, record = find_trial(database, name)
        print(database.read(told, row, record))
        chosen = [record]
    else:
        database, row = open_study(storage, name)
        chosen = list(reading.history(database, name, evaluated=False).trials)
    again = {one.number: asked_again(database, row, one) for one in chosen}
    other = [number for number, found in again.items() if found not in (None, "the same")]
    asked = sum(found is not None for found in again.values())
    if not asked and "/" not in name:
        print(
            "no point can be asked for again: the objective chooses, or the sampler needs more than results"
        )
    elif "/" not in name:
        print(f"{asked - len(other)} of {asked} points are drawn again from what was known then")
    elif again[record.number] == "changed":
        print("What is stored of the trials it knew then is not what it knew: a result was changed since.")
    elif asked:
        end = again[record.number]
        print(f"Asked again with the trials it knew then, the sampler draws {end} point.")
    if other and "/" not in name:
        print(f"others are drawn for {', '.join(map(str, other))}")
    return ExitCode.FAILED if other else ExitCode.DONE


@app.command()
def logs(
    name: TrialArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial ends.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; default: all.")] = None,
    storage: StorageOption = None,
) -> None:
    """Print what a trial's attempts printed; readable on any machine that shares the artifact store."""
    from hpo.studies.reading import read_log
    from hpo.studies.waiting import looks
    from storage.history.trials import Part, read_trial

    database = open_existing(storage)
    row, record = find_trial(database, name, attempts_only=True)
    seen: dict[int, int] = {}
    for found in looks(
        database,
        lambda connection: read_trial(connection, row, record.number, with_=Part.ATTEMPTS),
        lambda error: say(f"{error}; waiting for it"),
    ):
        ended = found is None or found.ended
        numbers = range(1, (found or record).attempts + 1) if attempt is None else [attempt]
        for number in numbers:
            part = read_log(row, record.number, number, seen.get(number, 0), LOG_PART)
            if part is None:
                if not follow or ended:
                    say(f"attempt {number} left no log that can be read here")
                continue
            if number not in seen and len(numbers) > 1:
                say(f"--- attempt {number}")
            if part.size < seen.get(number, 0):
                say(f"--- the middle of attempt {number}'s log was left out, because it grew too large")
            if not part.size and ended:
                say(f"attempt {number} printed nothing")
            while part is not None:
                sys.stdout.write(shown_log(part.text))
                seen[number] = part.end
                more = part.end < part.size and part.text
                part = read_log(row, record.number, number, part.end, LOG_PART) if more else None
        sys.stdout.flush()
        if not follow or ended:
            return


def find_trial(database: Database, name: str, *, attempts_only: bool = False) -> tuple[StudyRow, TrialRecord]:
    """The trial that STUDY/NUMBER names, whole or with no more than its attempts.

    Raises:
        UserError: not of that form. NotFoundError: no such study or trial.
    """
    from hpo.studies.reading import get_study
    from storage.history.trials import Part, count_trials, read_trial

    study, slash, number = name.rpartition("/")
    if not slash or not (number.isascii() and number.isdigit()):
        raise UserError(f"name a trial as STUDY/NUMBER, for example digits/17; got {name[:80]!r}")
    row = get_study(database, study)
    parts = Part.ATTEMPTS if attempts_only else Part.WHOLE
    found = None
    if len(number) < 10:  # more than any database holds
        found = database.read(read_trial, row, int(number), with_=parts)
    if found is None:
        count = database.read(count_trials, row)
        raise NotFoundError(f"{study} has no trial {number[:40]}; it has {count} so far")
    return row, found
