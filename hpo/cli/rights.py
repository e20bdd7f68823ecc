"""Commands for who may do what, and who did: token, events."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import assigned, print_json, print_rows, say, shown_lines
from hpo.cli.queries import open_existing
from hpo.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from storage.database.engine import Database, Transaction
    from storage.queue.events import Event

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
    may: Annotated[Right, typer.Option(help="view: see everything; act: steer, too.")],
    study: Annotated[str | None, typer.Option(help="Only this study; else every one.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=0, help="It may give studies so many in all; else any number.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="So many epochs of budgets in all.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="So many seconds of budgets in all.")] = None,
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
    limits = {"trials": trials, "epochs": epochs, "seconds": seconds}
    made = database.write_once(tokens.add, name, may.value, study_id, limits)
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
    print_rows(
        format_, found, ("name", "may", "study", "limits", "spent", "created"), "no token has been made"
    )


@token_app.command("revoke")
def revoke(name: NameArgument, storage: StorageOption = None) -> None:
    """End a token, and every browser's session that was opened with it, at once."""
    from storage.queue import tokens

    if not open_existing(storage).write(tokens.revoke, name):
        raise NotFoundError(f"there is no token named {name}; `hpo token ls` lists them")
    say(f"{name} is revoked")


@app.command()
def events(
    study: StudyArgument,
    since: Annotated[
        int | None, typer.Option(metavar="CURSOR", help="Only those after the event of this id; 0: all.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the study has ended; JSON is a line an event.")
    ] = False,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """List what happened to a study and who did what, oldest first; of one that was deleted, that it was."""
    from hpo.studies import answers
    from hpo.studies.reading import get_study
    from storage.queue.events import of_study

    database = open_existing(storage)
    if follow:
        _follow(database, study, since or 0, format_)
        return
    found = database.read(of_study, study, since=since)
    if not found:
        get_study(database, study)
    shown = answers.plain(found)
    if format_ is Format.JSON:
        print_json(shown)
        return
    rows = [{**item, "details": assigned(item["details"])} for item in shown]
    print_rows(format_, rows, ("at", "who", "what", "details", "study"), f"nothing was done to {study} yet")


def _follow(database: Database, study: str, since: int, format_: Format) -> None:
    """Events as they come, until the study has ended or is no more. The id of the last one is the cursor."""
    from hpo.studies.answers import plain
    from hpo.studies.waiting import looks
    from storage.database.errors import UnknownStudyError
    from storage.queue.events import of_study
    from storage.queue.studies import get

    def look(connection: Transaction) -> tuple[list[Event], bool]:
        new = of_study(connection, study, since=since)
        try:
            return new, get(connection, study).state.ended
        except UnknownStudyError:
            if not new and not of_study(connection, study, limit=1):
                raise
            return new, True

    for found, over in looks(database, look, lambda error: say(f"{error}; waiting for it")):
        for event in found:
            since = event.id
            item = plain(event)
            line = f"{item['at']}  {item['who']}  {item['what']}  {assigned(item['details'])}"
            print(json.dumps(item) if format_ is Format.JSON else shown_lines(line), flush=True)
        if over:
            return
