"""Commands that run studies: run, worker."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.app import (
    STUDY_FILE,
    CodeOption,
    GpusOption,
    PerGpuOption,
    QuietOption,
    RunnersOption,
    SetOption,
    StorageOption,
    app,
)
from hpo.cli.output import say
from hpo.cli.queries import open_here, print_best
from hpo.errors import ExitCode, HpoError, UserError
from hpo.text import counted

if TYPE_CHECKING:
    from hpo.cli.view import LiveView
    from hpo.settings import Settings
    from hpo.worker.limits import Limits
    from hpo.worker.lines import Lines
    from hpo.worker.supervisor import Outcome
    from storage.database.engine import Database
    from storage.database.records import StudyRow

MismatchOption = Annotated[
    bool,
    typer.Option(
        "--allow-mismatch", help="Run although this code differs from the study's; marked on each trial."
    ),
]
NoEvaluateOption = Annotated[
    bool, typer.Option("--no-evaluate", help="Leave the test set alone; see `hpo evaluate`.")
]
_RETRY = ". Once the cause is mended, the same command with --retry queues the failed ones again"
CommandsOption = Annotated[
    bool,
    typer.Option(
        "--allow-commands",
        help="Run studies whose objective is a command: whoever can write to the database can then run any "
        "program here.",
    ),
]


@app.command()
def run(
    context: typer.Context,
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="[SPEC]", help="The study file (YAML); or an objective: train.py, module:name."
        ),
    ] = Path(STUDY_FILE),
    trials: Annotated[int | None, typer.Option(metavar="N", help="Of an objective's study, in all.")] = None,
    direction: Annotated[
        list[str] | None, typer.Option(help="Of an objective: minimize (default) or maximize; one a value.")
    ] = None,
    study_name: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="Default: the objective file's name.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of an objective's study: random, tpe, ...")
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of an objective's study: median, asha, ...")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also keep an objective's study as a study file.")
    ] = None,
    set_: SetOption = None,
    runners: RunnersOption = None,
    gpus: GpusOption = "all",
    per_gpu: PerGpuOption = 1,
    storage: StorageOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; default: report-STUDY.html.")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    no_evaluate: NoEvaluateOption = False,
    allow_mismatch: MismatchOption = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; the study there is kept under another name.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Queue its failed trials again first.")] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve the dashboard beside it; at a terminal until Ctrl-C.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Also open it in a browser; implies --dashboard.")
    ] = False,
    quiet: QuietOption = False,
) -> int:
    """Run a study on this machine, or carry on with it. Ctrl-C once drains, twice aborts."""
    from hpo.cli.unwritten import read_study
    from hpo.worker.devices import plan
    from hpo.worker.nursery import Nursery

    said: dict[str, Any] = {"study": study_name, "trials": trials, "direction": direction}
    said |= {"sampler": sampler, "pruner": pruner, "write": write}
    asked = {name: value for name, value in said.items() if value is not None}
    if spec == Path(STUDY_FILE) and not spec.exists():
        raise UserError(f"there is no {STUDY_FILE} here; name a study file, or `hpo init` writes one")
    study, code, in_all = read_study(spec, asked, set_ or ())
    shares = plan(gpus, per_gpu, runners, study.gpus_per_trial)
    with Nursery.of(shares, study, str(code)) as nursery:  # imports torch while the rest here is imported
        from hpo.asked import notes, places
        from hpo.studies import steering
        from hpo.studies.creation import create_or_continue, create_or_extend, find
        from hpo.studies.reading import get_study
        from hpo.studies.steering import has_ended

        settings, database = open_here(storage)
        # The study's file is here, and it is the stored study: its command may run.
        here = Here(database, settings, code, shares, quiet, allow_mismatch, allow_commands=True)
        count: int | None = None
        if restart and (old := find(database, study.study)) is not None:
            say(f"the {study.study} that was there is {steering.set_aside(database, old)} now")
        if in_all:
            row, created, count = create_or_extend(database, study, settings)
        else:
            row, created = create_or_continue(database, study, settings)
        if retry and not created:
            failed = steering.retry_failed(database, row)
            say(f"{counted(failed, 'failed trial waits', 'failed trials wait')} again in {row.name}")
            row = get_study(database, row.name)
        if not quiet:
            if not created:
                say(f"{row.name} exists ({row.state}); carrying on")
            say("; ".join([*places(study, code), f"database {database.shown_url}"]))
        for note in notes(study, code) if created else ():
            say(f"note: {note}")
        if created and not quiet and (why := row.spec.get("chosen")):
            say(f"chosen: {why}")
        if created and (other := _beside(database, settings, row.name, code)) is not None:
            say(
                f"note: {other} has a study {row.name}, too; this run begins another one in "
                f"{database.shown_url}"
            )
        outcome, told = int(ExitCode.DONE), False
        if dashboard or open_:
            from hpo.dashboard.beside import beside

            context.with_resource(beside(database, row.name, say, open_))
        if row.state.ended:
            say(has_ended(row))
        elif count == 0:
            say(f"{row.name} has had its {study.tickets} trials")
        else:
            left = here.work(row, limits=_limits(count, None, None), nursery=nursery)
            outcome, told = left.exit_code, left.told
    if outcome == ExitCode.DONE and not told:
        outcome = here.confirm(row.name)
    if outcome == ExitCode.BAD_INPUT and created:
        _forget_untried(database, row)
    if outcome == ExitCode.INTERRUPTED or outcome == ExitCode.BAD_INPUT:
        return outcome
    outcome = _wrap_up(database, row.name, code, report, not no_report, not no_evaluate, outcome)
    if (dashboard or open_) and sys.stdin.isatty():  # somebody may be looking at it
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
            say("the dashboard goes on; Ctrl-C ends it")
            threading.Event().wait()
    return outcome


@app.command()
def worker(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="None: every running study in turn.")
    ] = None,
    runners: RunnersOption = None,
    gpus: GpusOption = "all",
    per_gpu: PerGpuOption = 1,
    count: Annotated[int | None, typer.Option(metavar="TRIALS", help="Leave after this many trials.")] = None,
    idle_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Leave after 90s, 10m or 2h without work.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Give running trials back and leave at 06:00, say.")
    ] = None,
    code: CodeOption = None,
    name: Annotated[str | None, typer.Option(help="Shown to people; default: host:pid.")] = None,
    storage: StorageOption = None,
    allow_mismatch: MismatchOption = False,
    allow_commands: CommandsOption = False,
    quiet: QuietOption = False,
) -> int:
    """Join a study, or all, from any machine that reaches the database. SIGTERM gives the tickets back."""
    from hpo.studies import confirming
    from hpo.studies.reading import get_study
    from hpo.studies.steering import has_ended
    from hpo.worker.devices import plan

    limits = _limits(count, idle_timeout, until)
    settings, database = open_here(storage)
    row = None if study is None else get_study(database, study)
    shares = plan(gpus, per_gpu, runners, 1 if row is None else row.gpus_per_trial)
    if row is not None and row.state.ended:
        row = confirming.go_on(database, row.name) or row
    if row is not None and row.state.ended:
        say(has_ended(row))
        return ExitCode.DONE
    here = Here(database, settings, code or Path.cwd(), shares, quiet, allow_mismatch, allow_commands)
    left = here.work(row, limits=limits, name=name)
    goes_on = left.exit_code == ExitCode.DONE and not left.told and limits.trials is None
    if row is not None and row.repeats_of is None and goes_on:
        return here.confirm(row.name, limits=limits, name=name)
    return left.exit_code


def _limits(count: int | None, idle_timeout: str | None, until: str | None) -> Limits:
    """What makes a worker leave before its study ends."""
    from hpo.worker.limits import Limits, parse_seconds, parse_until

    if count is not None and count < 1:
        raise UserError(f"--count must be at least 1, got {count}")
    return Limits(
        count,
        None if idle_timeout is None else parse_seconds(idle_timeout, "--idle-timeout"),
        None if until is None else parse_until(until),
    )


@dataclass(frozen=True)
class Here:
    """This machine at work: what its runners have, and what they may."""

    database: Database
    settings: Settings
    code: Path
    shares: Any
    quiet: bool
    allow_mismatch: bool
    allow_commands: bool

    def work(self, row: StudyRow | None, **options: Any) -> Outcome:
        """Be a worker of one study, or of all, until it ends or a signal comes; `options` as `Worker` has."""
        from hpo.spec import StudySpec
        from hpo.worker.supervisor import Worker
        from hpo.worker.turns import Assignment

        study = None if row is None else Assignment(row, StudySpec.model_validate(row.spec))
        name = None if row is None else row.name
        gc.freeze()  # or the clerk would look through all that was imported for cycles
        with nullcontext() if self.quiet else self._view(name) as view:
            heard: dict[str, Any] = {} if view is None else {"on_event": view.on_event}
            outcome = Worker(
                self.database,
                self.settings,
                study,
                str(self.code),
                self.shares,
                allow_mismatch=self.allow_mismatch,
                allow_commands=self.allow_commands,
                **heard,
                **options,
            ).run()
        if outcome.exit_code != ExitCode.DONE or not self.quiet:
            say(f"{'hpo: ' if outcome.exit_code else ''}{outcome.why}")
        return outcome

    def _view(self, study: str | None) -> LiveView | Lines:
        from hpo.cli.view import make_view

        return make_view(self.database, study)

    def confirm(self, study: str, **options: Any) -> int:
        """The search has ended: train again what its study file asks for, or somebody has; the exit code."""
        from hpo.errors import NotFoundError
        from hpo.studies import confirming

        its = None
        with suppress(NotFoundError):  # it was deleted meanwhile
            its = confirming.go_on(self.database, study)
        return ExitCode.DONE if its is None else self.work(its, **options).exit_code


def _wrap_up(
    database: Database, name: str, code: Path, report: Path | None, write: bool, test: bool, outcome: int
) -> int:
    """After the search: test the winner once, write the report, say what was found."""
    from hpo.studies.evaluation import evaluate
    from hpo.studies.reading import get_study, history
    from storage.database.errors import StorageError
    from storage.history.records import why_no_best

    row = get_study(database, name)
    found = history(database, name)
    completed = bool(found.winners)
    failed: Exception | None = None
    testable = found.best is not None and not found.best.foreign
    testable &= not row.spec.get("confirm") or found.is_confirmed
    if test and testable and row.state.ended:
        try:
            evaluate(database, row, code)
        except (HpoError, StorageError) as error:
            failed = error
        found = history(database, name)
    print_best(found)
    if write:
        from hpo.files import file_name
        from hpo.report.page import write_report  # plotly and more: seconds that --no-report saves

        path = write_report([found], report or Path(f"report-{file_name(name)}.html"))
        print(f"report: {path}")
    if failed is not None:
        raise failed
    if not completed:
        say(
            f"hpo: {name} {why_no_best(found)}; `hpo trials {name}` shows what each one met"
            + (_RETRY if any(trial.state == "failed" for trial in found.trials) else "")
        )
        return ExitCode.FAILED
    return outcome


def _beside(database: Database, settings: Settings, name: str, folder: Path) -> str | None:
    """Where a study of this name is in a database that lies beside the study file and is not this run's."""
    from hpo.studies.creation import find
    from hpo.wiring import open_storage
    from storage.database.errors import StorageError

    file = Path(os.path.abspath(folder / "hpo.db"))  # noqa: PTH100 -- keeps symbolic links
    url = f"sqlite:///{file}"
    if not file.is_file() or database.shown_url == url:
        return None
    with suppress(HpoError, StorageError):
        other = open_storage(replace(settings, storage=url), create=False)
        try:
            return url if find(other, name) is not None else None
        finally:
            other.close()
    return None


def _forget_untried(database: Database, row: StudyRow) -> None:
    """A study whose objective could not be imported at all must not occupy its name."""
    from hpo.studies import steering
    from storage.queue import tickets, workers

    found = database.read(tickets.counts, row.id)
    known = database.read(workers.all_workers, row.id)
    if found.ended + found.running == 0 and len(known) <= 1:
        steering.delete(database, row)
