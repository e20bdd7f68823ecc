"""Commands that look at studies and workers: ls, show, workers, best, audit."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.app import CodeOption, Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import assigned, cell, print_json, print_rows, print_table, say, spelled
from hpo.errors import ExitCode, NotFoundError, UserError

if TYPE_CHECKING:
    from hpo.settings import Settings
    from storage.database.engine import Database, Transaction
    from storage.database.records import StudyRow
    from storage.history.records import StudyHistory, TrialRecord


opened = ExitStack()  # what closes the databases of the command at work; `hpo.cli.run` does


def open_here(storage: str | None, *, create: bool = True) -> tuple[Settings, Database]:
    """This machine's settings and the database; unless `create`, an earlier command must have made it."""
    from hpo.settings import Settings
    from hpo.wiring import open_storage

    settings = Settings.from_environment(storage)
    database = open_storage(settings, create=create)
    opened.callback(database.close)
    return settings, database


def open_existing(storage: str | None) -> Database:
    """The database, which must have been created by an earlier command."""
    return open_here(storage, create=False)[1]


def open_study(storage: str | None, name: str) -> tuple[Database, StudyRow]:
    """The database and the study of this name in it.

    Raises:
        NotFoundError: there is none.
    """
    from hpo.studies.reading import get_study

    database = open_existing(storage)
    return database, get_study(database, name)


@app.command("ls")
def list_(storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """List the studies of a database."""
    from storage.history.lists import each_readable, progress
    from storage.queue.studies import names

    database = open_existing(storage)

    def line(connection: Transaction, name: str) -> dict[str, Any]:
        if format_ is Format.JSON:
            from hpo.studies import answers

            return dict(answers.plain(answers.study(connection, name)))
        now = progress(connection, name)
        row = now.row
        return {
            "name": name,
            "state": row.state.value,
            "sampler": row.spec["sampler"]["name"],
            "done": now.counts.ended,
            "budget": row.budget_trials or (row.budget_epochs and f"{row.budget_epochs} epochs"),
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
    from hpo.studies import answers

    database, row = open_study(storage, study)
    found = answers.plain(database.read(answers.study_detail, row.name))
    if format_ is Format.JSON:
        print_json(found)
        return
    left_out = {"spec", "confirmation", "test_evaluation", "best_params", "best_so_far"}
    left_out |= {"done", "running", "seconds_used", "trial"}
    if found["best"] and len(found["directions"]) == 1:
        del found["best"]["values"]
    print_table(("", ""), [(key, value) for key, value in found.items() if key not in left_out])


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
    rows = database.read(all_workers, study_id)
    found = answers.plain([answers.worker(row) for row in rows])
    if format_ is Format.TABLE:  # silence means something while a worker should beat
        for item in found:
            item["silent for"] = None if item["state"] == "left" else f"{item['silent_for']:.0f} s"
    columns = ("name", "host", "pid", "devices", "state", "trials", "last_beat", "silent for", "reason")
    print_rows(format_, found, columns, "no worker has joined yet", spare=("host", "pid"))


@app.command()
def best(
    study: StudyArgument,
    params: Annotated[bool, typer.Option("--params", help="Print the parameters as JSON only.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the winner's state dict to this file.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write one model, preparation included: model.pt2 or model.onnx."),
    ] = None,
    code: CodeOption = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show the best trial (the Pareto front of several directions); get its parameters or weights."""
    from hpo.studies import answers, reading
    from storage.history.records import why_no_best

    database, row = open_study(storage, study)
    history = reading.history(database, study)
    winners = history.winners
    if not winners:
        raise NoResultError(f"{study} {why_no_best(history)}")
    several = len(history.directions) > 1
    if checkpoint is not None:
        if several:
            raise UserError("a study with several directions has no single winner; pick a trial")
        _write_checkpoint(database, row, winners[0], checkpoint)
    if export is not None:
        from hpo.studies import evaluation

        number = evaluation.export(database, row, code or Path.cwd(), export)
        say(f"trial {number} written to {export}")
    if params:
        chosen = [dict(trial.params) for trial in winners]
        print_json(chosen if several else chosen[0])
    elif format_ is Format.JSON:
        short = answers.plain([answers.best(trial) for trial in winners])
        sure = {"confirmation": history.confirmation, "test": (history.test_evaluation or {}).get("metrics")}
        print_json(short if several else short[0] | answers.plain(sure))
    elif checkpoint is None and export is None:
        print_best(history)


@app.command()
def audit(study: StudyArgument, storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> int:
    """Prove from the database that nothing was lost or counted twice; exit 1 if something was."""
    from hpo.studies.answers import plain
    from storage.history.audit import audit as audit_study

    database, row = open_study(storage, study)
    found = database.read(audit_study, row)
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
            f"{len(found.foreign)} foreign, {found.rejected_writes} stale writes rejected; "
            f"attempts per ticket: {cell(found.attempts_per_ticket)}"
        )
    return ExitCode.DONE if found.holds else ExitCode.FAILED


class NoResultError(NotFoundError):
    """There is nothing to show yet."""

    exit_code = ExitCode.FAILED


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
    for title, evaluation in (("validation", history.winner_evaluation), ("test", history.test_evaluation)):
        for metric, value in ((evaluation or {}).get("metrics") or {}).items():
            if metric in ("accuracy", "rmse", "r2"):
                lines.append((f"{title} {metric}", value))
    print_table(("", ""), lines, title=history.name)
    if found is not None:
        from hpo.report.records.confirmation import sentences

        print(" ".join(sentences(found, None if history.best is None else history.best.number)))


def _write_checkpoint(database: Database, row: StudyRow, winner: TrialRecord, out: Path) -> None:
    from hpo.files import write_whole
    from hpo.studies.evaluation import kept_weights

    kept = kept_weights(database, row, winner)
    if kept is None:
        raise NoResultError(
            f"trial {winner.number} left no weights that can be read here; artifacts are in {row.artifacts}"
        )
    write_whole(out, kept[0], "checkpoint")
    say(f"weights of trial {winner.number} written to {out}")
