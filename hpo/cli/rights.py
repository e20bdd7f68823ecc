"""Commands for who may do what, and who did: token, events."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import assigned, print_json, print_rows, say
from hpo.cli.queries import open_existing
from hpo.errors import NotFoundError, UserError

token_app = typer.Typer(help="Named tokens for the dashboard and its API.", no_args_is_help=True)
app.add_typer(token_app, name="token")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the token: who or what holds it.")]


class Right(StrEnum):
    """What a token's holder may do."""

    VIEW = "view"
    ACT = "act"


@token_app.command("add")
def add(
    name: NameArgument,
    may: Annotated[Right, typer.Option("--may", help="view: see everything; act: steer, too.")],
    study: Annotated[str | None, typer.Option("--study", help="Only this study; else every one.")] = None,
    storage: StorageOption = None,
) -> None:
    """Make a token and print it, this once: the database keeps only its digest."""
    from hpo.studies.reading import get_study
    from storage.queue import tokens

    if not re.fullmatch(r"[\w.@+-]{1,100}", name):
        raise UserError(
            f"a token's name holds letters, digits and . _ @ + -, at most 100; got {name[:120]!r}"
        )
    database = open_existing(storage)
    study_id = None if study is None else get_study(database, study).id
    made = database.write_once(
        lambda connection: tokens.add(connection, database.clock, name, may.value, study_id)
    )
    if made is None:
        raise UserError(f"there is a token named {name} already; `hpo token revoke {name}` ends it")
    say(f"{name} may {may}{'' if study is None else f' in {study} alone'}; the token is shown this once:")
    print(made)


@token_app.command("ls")
def list_(storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """List the tokens that are good."""
    from hpo.studies import answers
    from storage.queue import tokens

    found = answers.plain(open_existing(storage).read(tokens.all_tokens))
    print_rows(format_, found, ("name", "may", "study", "created"), "no token has been made")


@token_app.command("revoke")
def revoke(name: NameArgument, storage: StorageOption = None) -> None:
    """End a token, and every browser's session that was opened with it, at once."""
    from storage.queue import tokens

    if not open_existing(storage).write(lambda connection: tokens.revoke(connection, name)):
        raise NotFoundError(f"there is no token named {name}; `hpo token ls` lists them")
    say(f"{name} is revoked")


@app.command()
def events(study: StudyArgument, storage: StorageOption = None, format_: FormatOption = Format.TABLE) -> None:
    """List who did what to a study, oldest first; also of one that was deleted, that it was."""
    from hpo.studies import answers
    from hpo.studies.reading import get_study
    from storage.queue.events import of_study

    database = open_existing(storage)
    found = database.read(lambda connection: of_study(connection, study))
    if not found:
        get_study(database, study)
    shown = answers.plain(found)
    if format_ is Format.JSON:
        print_json(shown)
        return
    rows = [{**item, "details": assigned(item["details"])} for item in shown]
    print_rows(format_, rows, ("at", "who", "what", "details", "study"), f"nothing was done to {study} yet")
