"""Whether a result can be relied on: confirm; and what pruning cost: regret, unprune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.app import (
    CodeOption,
    Format,
    FormatOption,
    GpusOption,
    PerGpuOption,
    QuietOption,
    RunnersOption,
    StorageOption,
    StudyArgument,
    app,
)
from hpo.cli.output import print_json, print_rows, print_table, say
from hpo.cli.queries import open_existing, open_here
from hpo.cli.running import CommandsOption, Here, MismatchOption, NoEvaluateOption
from hpo.cli.trials import TrialArgument, find_trial
from hpo.errors import ExitCode

if TYPE_CHECKING:
    from storage.history.records import Confirmation


@app.command()
def confirm(
    study: StudyArgument,
    top: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, max=100, help="How many of the best settings; default: 5."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=2, max=1000, help="Trainings of each at most; default: 10.")
    ] = None,
    runners: RunnersOption = None,
    gpus: GpusOption = "all",
    per_gpu: PerGpuOption = 1,
    code: CodeOption = None,
    storage: StorageOption = None,
    no_evaluate: NoEvaluateOption = False,
    allow_mismatch: MismatchOption = False,
    allow_commands: CommandsOption = False,
    quiet: QuietOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Train the best settings, and the first, again with fresh seeds: which is the best, and how surely.

    Other workers of the study join in. The same command carries on, and shows what is known when all is done.
    """
    from hpo.studies import answers, reading
    from hpo.studies.confirming import ask
    from hpo.studies.evaluation import evaluate
    from hpo.worker.devices import plan

    settings, database = open_here(storage, create=False)
    row = reading.get_study(database, study)
    its = ask(database, row, top=top, seeds=seeds)
    outcome: int = ExitCode.DONE
    folder = code or Path.cwd()
    if not its.state.ended:
        shares = plan(gpus, per_gpu, runners, row.gpus_per_trial)
        here = Here(database, settings, folder, shares, quiet, allow_mismatch, allow_commands)
        outcome = here.work(its).exit_code
    history = reading.history(database, study)
    found = history.confirmation
    assert found is not None
    if found.done and not no_evaluate and found.winner is not None:
        evaluate(database, row, folder)
    if format_ is Format.JSON:
        print_json(answers.plain(found))
    else:
        print_confirmation(row.name, found, None if history.best is None else history.best.number)
        if not found.done:
            say(f"not all is trained; `hpo confirm {row.name}` carries on")
    return outcome


@app.command()
def regret(
    study: StudyArgument,
    sample: Annotated[int, typer.Option(metavar="N", min=1, help="How many pruned trials to run on.")] = 20,
    top: Annotated[int, typer.Option(metavar="K", min=1, help="What counts as among the best.")] = 5,
    runners: RunnersOption = None,
    gpus: GpusOption = "all",
    per_gpu: PerGpuOption = 1,
    code: CodeOption = None,
    storage: StorageOption = None,
    allow_mismatch: MismatchOption = False,
    allow_commands: CommandsOption = False,
    quiet: QuietOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Run a sample of the pruned trials to their end: how often did pruning throw away one of the best?

    Those whose checkpoints `keep: pruned 10%` has kept go on from them, others train anew with the same seed.
    """
    from hpo.studies import answers, reading
    from hpo.studies import regret as regrets
    from hpo.worker.devices import plan

    settings, database = open_here(storage, create=False)
    row = reading.get_study(database, study)
    its = regrets.ask(database, row, sample)
    outcome: int = ExitCode.DONE
    if not its.state.ended:
        shares = plan(gpus, per_gpu, runners, row.gpus_per_trial)
        here = Here(database, settings, code or Path.cwd(), shares, quiet, allow_mismatch, allow_commands)
        outcome = here.work(its).exit_code
    found = regrets.of(database, row, top)
    if format_ is Format.JSON:
        print_json(answers.plain(found))
        return outcome
    rows = [vars(one) | {f"best {top}": "yes" if one.among else "no"} for one in found.trials]
    names = ("trial", "epochs", "reported", "value", f"best {top}")
    print_rows(format_, rows, names, "none has come to its end yet")
    print(regrets.sentence(found))
    if not found.done:
        say(f"not all of the sample is trained; `hpo regret {row.name}` carries on")
    return outcome


@app.command()
def unprune(name: TrialArgument, storage: StorageOption = None) -> None:
    """Queue a copy of a pruned trial that goes on from its checkpoint, to its end."""
    from hpo.studies.regret import unprune as carry_on
    from hpo.studies.steering import unless_going

    database = open_existing(storage)
    row, record = find_trial(database, name)
    number = carry_on(database, row, record.number)
    say(f"{row.name}/{number} goes on where {name} was pruned{unless_going(database, row)}")


def print_confirmation(name: str, found: Confirmation, best: int | None) -> None:
    """What was reported beside what was confirmed, setting by setting."""
    from hpo.report.records.confirmation import sentences

    lines: list[tuple[Any, ...]] = []
    for one in found.settings:
        trial, known = f"{one.trial}{' (first)' if one.is_first else ''}", one.estimate
        if known is None:
            lines.append((trial, one.reported, None, None, None, 0, None, one.state))
            continue
        between = None if known.low is None else f"{known.low:.5g} to {known.high:.5g}"
        sure = f"{100 * known.probability:.0f} %"
        lines.append(
            (trial, one.reported, known.mean, between, known.worst, known.trainings, sure, one.state)
        )
    columns = ("trial", "reported", "confirmed", "90 %", "worst", "trainings", "best with", "state")
    print_table(columns, lines, title=name)
    print(" ".join(sentences(found, best)))
