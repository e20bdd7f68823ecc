"""Commands that look: ls, show, trials, trial, logs, workers, best, audit."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import (
    assigned,
    cell,
    print_json,
    print_rows,
    print_table,
    say,
    shown_lines,
    shown_log,
    spelled,
)
from hpo.errors import ExitCode, NotFoundError, UserError

if TYPE_CHECKING:
    from storage.database.engine import Database, Transaction
    from storage.database.records import StudyRow
    from storage.history.records import StudyHistory, TrialRecord

TrialArgument = Annotated[
    str, typer.Argument(metavar="STUDY/TRIAL", help="A trial by number, for example digits/17.")
]


def open_existing(storage: str | None) -> Database:
    """The database, which must have been created by an earlier command."""
    from hpo.settings import Settings
    from hpo.wiring import open_storage

    return open_storage(Settings.from_environment(storage), create=False)


@app.command("ls")
def list_(storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """List the studies of a database."""
    from storage.history.lists import each_readable, progress
    from storage.queue.studies import names

    database = open_existing(storage)

    def line(connection: Transaction, name: str) -> dict[str, Any]:
        if format_ is Format.JSON:
            from hpo.studies import answers

            return dict(answers.plain(answers.study(connection, database, name)))
        now = progress(connection, database.clock, name)
        return {
            "name": name,
            "state": now.row.state.value,
            "sampler": now.row.spec["sampler"]["name"],
            "done": now.counts.ended,
            "budget": now.row.budget_trials,
            "running": now.counts.running,
            "best": now.best_value,
            "trial": now.best_number,
        }

    def look(connection: Transaction) -> tuple[list[dict[str, Any]], dict[str, str]]:
        return each_readable(names(connection), partial(line, connection))

    rows, damaged = database.read(look)
    print_rows(
        format_,
        rows,
        ("name", "state", "sampler", "done", "budget", "running", "best", "trial"),
        "no studies yet; start one with `hpo run study.yaml`",
    )
    for why in damaged.values():
        say(why)


@app.command()
def show(study: StudyArgument, storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """Show one study: state, budget, counts, best."""
    from hpo.studies import answers, reading

    database = open_existing(storage)
    name = reading.get_study(database, study).name
    detail = database.read(lambda connection: answers.study_detail(connection, database, name))
    found = answers.plain(detail)
    if format_ is Format.JSON:
        print_json(found)
        return
    left_out = (
        "spec",
        "confirmation",
        "test_evaluation",
        "best_params",
        "best_so_far",
        "done",
        "running",
        "seconds_used",
    )
    print_table(("", ""), [(key, value) for key, value in found.items() if key not in left_out])


@app.command()
def trials(study: StudyArgument, storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """List a study's trials with their parameters, values, attempts and workers."""
    from hpo.studies import answers, reading
    from storage.history.trials import Part, read_trials
    from storage.queue import tickets

    database = open_existing(storage)
    row = reading.get_study(database, study)
    parts = Part.WHOLE if format_ is Format.JSON else Part.LINE
    found = database.read(lambda connection: read_trials(connection, row, with_=parts)).values()
    waiting = database.read(lambda connection: tickets.counts(connection, row.id)).shown_in(row.state).waiting
    if format_ is Format.JSON:
        print_json(answers.plain([answers.trial(trial) for trial in found]))
        return
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "value": trial.values,
            "params": assigned(trial.params),
            "steps": trial.steps,
            "attempts": trial.attempts,
            "runner": trial.runner,
            "seconds": trial.seconds,
            "breaks": ", ".join(trial.broken),
            "error": trial.error,
        }
        for trial in found
    ]
    columns = ["number", "state", "value", "params", "steps", "attempts", "runner", "seconds"]
    if any(row["breaks"] for row in rows):
        columns.insert(3, "breaks")
    if any(row["error"] for row in rows):
        columns.append("error")
    print_rows(format_, rows, columns, f"{study} has no trials yet; {waiting} wait for a worker")


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

    database = open_existing(storage)
    if "/" in name:
        row, record = find_trial(database, name)
        print(database.read(lambda connection: told(connection, row, record)))
        chosen = [record]
    else:
        row = reading.get_study(database, name)
        chosen = list(reading.history(database, name, evaluated=False).trials)
    again = {one.number: asked_again(database, row, one) for one in chosen}
    other = [number for number, same in again.items() if same is False]
    asked = sum(same is not None for same in again.values())
    if "/" not in name:
        print(f"{asked - len(other)} of {asked} points are drawn again from what was known then")
    elif asked:
        end = "another" if other else "the same"
        print(f"Asked again with the trials it knew then, the sampler draws {end} point.")
    if other and "/" not in name:
        print(f"others are drawn for {', '.join(map(str, other))}")
    return ExitCode.FAILED if other else ExitCode.DONE


@app.command()
def logs(
    name: TrialArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial ends.")] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Which attempt; default: all.")] = None,
    storage: StorageOption = None,
) -> None:
    """Print what a trial's attempts printed; readable on any machine that shares the artifact store."""
    from hpo.studies.reading import read_log

    database = open_existing(storage)
    seen: dict[int, int] = {}
    while True:
        row, record = find_trial(database, name, attempts_only=True)
        ended = record.ended
        numbers = range(1, record.attempts + 1) if attempt is None else [attempt]
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
        time.sleep(0.5)


@app.command()
def workers(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Only its workers.")] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """List workers: host, pid, device, state, current trials, last beat, why one is quarantined."""
    from hpo.studies import answers
    from hpo.studies.reading import get_study
    from storage.queue.workers import all_workers

    database = open_existing(storage)
    study_id = None if study is None else get_study(database, study).id
    rows = database.read(lambda connection: all_workers(connection, database.clock, study_id))
    found = answers.plain([answers.worker(row) for row in rows])
    if format_ is Format.TABLE:  # silence means something while a worker should beat
        for item in found:
            silent = item["state"] not in ("left",)
            item["silent for"] = f"{item['silent_for']:.0f} s" if silent else None
    columns = ("name", "host", "pid", "devices", "state", "trials", "last_beat", "silent for", "reason")
    print_rows(format_, found, columns, "no worker has joined yet")


@app.command()
def best(
    study: StudyArgument,
    params: Annotated[bool, typer.Option("--params", help="Print the parameters as JSON only.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="OUT", help="Write the winner's state dict to this file."),
    ] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show the best trial (the Pareto front of several directions); get its parameters or weights."""
    from hpo.studies import answers, reading
    from storage.history.records import why_no_best

    database = open_existing(storage)
    history = reading.history(database, study)
    winners = history.winners
    if not winners:
        raise NoResultError(f"{study} {why_no_best(history)}")
    several = len(history.directions) > 1
    if checkpoint is not None:
        if several:
            raise UserError("a study with several directions has no single winner; pick a trial")
        _write_checkpoint(database, reading.get_study(database, study), winners[0], checkpoint)
    if params:
        chosen = [dict(trial.params) for trial in winners]
        print_json(chosen if several else chosen[0])
    elif format_ is Format.JSON:
        short = answers.plain([answers.best(trial) for trial in winners])
        sure = {"confirmation": history.confirmation, "test": (history.test_evaluation or {}).get("metrics")}
        print_json(short if several else short[0] | answers.plain(sure))
    elif checkpoint is None:
        print_best(history)


@app.command()
def audit(study: StudyArgument, storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> int:
    """Prove from the database that nothing was lost or counted twice; exit 1 if something was."""
    from hpo.studies.answers import plain
    from hpo.studies.reading import get_study
    from storage.history.audit import audit as audit_study

    database = open_existing(storage)
    row = get_study(database, study)
    found = database.read(lambda connection: audit_study(connection, row))
    if format_ is Format.JSON:
        print_json(plain(found))
    else:
        print_table(
            ("", "rule", "found"),
            [("ok" if check.holds else "BROKEN", check.rule, check.found) for check in found.checks],
        )
        print(
            f"{found.results}/{found.tickets} results, {found.duplicates} duplicates, "
            f"{found.missing} missing, {found.diverged} diverged, {found.failed} failed, "
            f"{len(found.foreign)} foreign, "
            f"{found.rejected_writes} stale writes rejected; "
            f"attempts per ticket: {cell(found.attempts_per_ticket)}"
        )
    return ExitCode.DONE if found.holds else ExitCode.FAILED


LOG_PART = 1_000_000  # bytes of a log that are read at once


class NoResultError(NotFoundError):
    """There is nothing to show yet."""

    exit_code = ExitCode.FAILED


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
        found = database.read(lambda connection: read_trial(connection, row, int(number), with_=parts))
    if found is None:
        count = database.read(lambda connection: count_trials(connection, row))
        raise NotFoundError(f"{study} has no trial {number[:40]}; it has {count} so far")
    return row, found


def print_best(history: StudyHistory) -> None:
    """The best trial or the Pareto front, with the winner's validation and test metrics."""
    winners = history.winners
    if not winners:
        return
    if len(history.directions) > 1:
        print_table(
            ("trial", "values", "params"),
            [(trial.number, trial.values, assigned(trial.params)) for trial in winners],
            title=f"Pareto front of {history.name}",
        )
        return
    winner = winners[0]
    lines: list[tuple[str, Any]] = [("best trial", winner.number), ("value", winner.value)]
    found = history.confirmation
    again = None if found is None else found.of(winner.number)
    if again is not None and again.estimate is not None:
        lines[1] = ("reported", again.reported)
        lines.append(("confirmed", again.estimate.mean))
    lines += [(f"  {name}", spelled(value)) for name, value in winner.params.items()]
    for title, evaluation in (
        ("validation", history.winner_evaluation),
        ("test", history.test_evaluation),
    ):
        for metric, value in ((evaluation or {}).get("metrics") or {}).items():
            if metric in ("accuracy", "rmse", "r2"):
                lines.append((f"{title} {metric}", value))
    print_table(("", ""), lines, title=history.name)
    if found is not None:
        from hpo.report.records.confirmation import sentences

        print(" ".join(sentences(found)))


def _write_checkpoint(database: Database, row: StudyRow, winner: TrialRecord, out: Path) -> None:
    from hpo.files import write_whole
    from hpo.studies.evaluation import winner_bytes

    content = winner_bytes(database, row, winner)
    if content is None:
        raise NoResultError(
            f"trial {winner.number} left no weights that can be read here; artifacts are in {row.artifacts}"
        )
    write_whole(out, content, "checkpoint")
    say(f"weights of trial {winner.number} written to {out}")
