"""The command that takes over trials from elsewhere: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.app import SetOption, StorageOption, app
from hpo.cli.output import say
from hpo.cli.queries import open_here
from hpo.errors import UserError


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
