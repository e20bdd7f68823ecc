"""Commands that make studies, or say how: check, create, import, enqueue, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.app import (
    Format,
    FormatOption,
    SetOption,
    SpecArgument,
    StorageOption,
    StudyArgument,
    app,
)
from hpo.cli.output import print_json, say
from hpo.cli.queries import open_here, open_study
from hpo.errors import UserError


@app.command()
def check(spec: SpecArgument, set_: SetOption = None) -> None:
    """Validate a study file and import its objective, or find its program, without creating anything."""
    from hpo.asked import notes, places
    from hpo.runner.session import find_objective
    from hpo.search.auto import chosen
    from hpo.spec import load_spec
    from hpo.worker.devices import plan

    study = chosen(load_spec(spec, set_ or ()))
    folder = spec.absolute().parent
    find_objective(study, folder)
    if "custom" in (study.sampler.name, study.pruner.name):
        from hpo.runner.adviser import make_pruner_of, make_sampler_of

        make_sampler_of(study, folder, study.sampler.seed)
        make_pruner_of(study, folder)
    for note in notes(study, folder):
        say(f"note: {note}")
    try:
        plan("all", 1, None, study.gpus_per_trial)
    except UserError as error:
        say(f"note: not on this machine: {error}")
    say("; ".join(places(study, folder)))
    if study.chosen:
        say(f"chosen: {study.chosen}")
    size = f"{study.tickets} trials" if study.tickets is not None else "no limit of trials"
    print(f"{spec.name} is a valid study: {study.study}, {study.sampler.name}, {size}")


@app.command()
def create(
    spec: SpecArgument,
    set_: SetOption = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="STUDY", help="Try its best points first; show its history to the sampler."
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="How many points --from takes.")] = 3,
    storage: StorageOption = None,
) -> None:
    """Store a study without running it; prints the line that starts a worker on any machine."""
    from hpo.spec import load_spec
    from hpo.studies.commands import worker_command
    from hpo.studies.creation import create_or_continue
    from hpo.studies.warm_start import warm_start

    study = load_spec(spec, set_ or ())
    settings, database = open_here(storage)
    warm = None if from_ is None else warm_start(database, study, from_, top)
    row, created = create_or_continue(database, study, settings, warm)
    for note in () if warm is None else warm.notes:
        say(note)
    say(f"{'created' if created else 'found'} study {row.name} in {database.shown_url}; add workers with")
    print(worker_command(database, row, str(spec.absolute().parent), allow_commands=True))


@app.command("import")
def import_(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="The study file; with --optuna it may be left out."),
    ] = None,
    optuna: Annotated[
        str | None, typer.Option(metavar="URL", help="An Optuna database, or a SQLite or journal file of it.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which study of the Optuna database.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A table: one column a parameter, value, and maybe state."),
    ] = None,
    into: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the new study; default: as it was.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(metavar="PATH", help="Without SPEC: what further trials call.")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out trials that do not fit.")] = False,
    set_: SetOption = None,
    storage: StorageOption = None,
) -> None:
    """Make a study of finished trials: hpo import SPEC --csv FILE, or hpo import [SPEC] --optuna URL.

    The new study is finished; hpo show, trials, best, report and audit read it, and hpo extend NAME
    --trials +50 lets it go on, its sampler knowing all that was imported.
    """
    from hpo.spec import load_spec
    from hpo.studies.importing import NO_OBJECTIVE, derived_spec, import_study
    from hpo.studies.sources import read_csv, read_optuna

    if (optuna is None) == (csv is None):
        raise UserError("say where from: hpo import SPEC --csv FILE, or hpo import [SPEC] --optuna URL")
    renamed = [*(set_ or ()), *([f"study={into}"] if into else [])]
    found = None if spec is None else load_spec(spec, renamed)
    if found is not None and objective is not None:
        raise UserError(
            f"{spec} names the objective already; --objective is for an import without a study file"
        )
    notes: list[str] = []
    if csv is not None:
        if found is None:
            raise UserError("a table says nothing about ranges and directions: hpo import SPEC --csv FILE")
        source = read_csv(csv, found)
    else:
        source = read_optuna(optuna or "", study)
        if found is None:
            found, notes = derived_spec(source, into, objective)
    settings, database = open_here(storage)
    imported = import_study(database, settings, found, source, skip=skip)
    row = imported.row
    for note in (*imported.notes, *notes):
        say(note)
    then = "" if found.objective == NO_OBJECTIVE else f"; `hpo extend {row.name} --trials +50` lets it go on"
    say(f"{row.name} has {row.budget_trials} trials of {source.name} now{then}")


@app.command()
def enqueue(
    study: StudyArgument,
    point: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Parameters of the point.")],
    by: Annotated[str | None, typer.Option(metavar="WHO", help="Who proposes it; default: you.")] = None,
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, kept with it.")] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Have a point tried next; names left out are left to the sampler. The budget stays exact."""
    from hpo.spec.reading import read_point
    from hpo.studies.creation import enqueue as enqueue_point

    database, row = open_study(storage, study)
    values = read_point(point)
    number, when = enqueue_point(database, row, values, by, why)
    if format_ is Format.JSON:
        print_json({"study": row.name, "ticket": number, "point": values})
    else:
        say(f"ticket {number} of {row.name} will try {values}{when}")


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from hpo.spec import json_schema

    print_json(json_schema())
