"""The typer application and the options that many commands share."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

SECTIONS = {  # of the help, in the order in which a newcomer meets them
    "Begin": "init check run doctor import schema",
    "Look": "ls show trials trial why logs events wait audit",
    "Its result": "best confirm evaluate predict refit replay regret",
    "Share": "report dashboard export token mcp",
    "Steer": "pause resume stop cancel retry extend enqueue mark unprune delete",
    "More machines": "create worker launch launches workers db",
}


WORDS = {  # for typer's names of types; of all others: text
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "path": "PATH",
}


class Commands(TyperGroup):
    """All commands, in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with its whole first sentence."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(200)) for name in names.split()]
                )


app = typer.Typer(
    name="hpo",
    cls=Commands,
    help="Hyperparameter search for PyTorch: one study file, any number of workers, every trial once.",
    epilog=(
        "Exit codes: 0 done; 1 no completed trial, or the command failed; 2 the input is wrong; 3 no such "
        "study, trial, worker or launch; 4 the database cannot be reached; 64 this worker's code differs; "
        "124 `hpo wait` waited in vain; "
        "130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts faster
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"hpo {version('hpo')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hyperparameter search for PyTorch: one study file, any number of workers, every trial once."""


def in_words(command: Any) -> Any:
    """The command and those below it, with help that says PATH where typer says `<path>`; an argument has
    a name, and that is enough.
    """
    for below in getattr(command, "commands", {}).values():
        in_words(below)
    for param in command.params:
        param.display_type_rich = partial(_word, param)
    return command


def _word(param: Any, ctx: Any) -> str:
    if param.param_type_name == "argument":
        return ""
    if param.metavar:
        return str(param.metavar)
    shown = str(param.display_type(ctx)).strip("<>")
    return shown if "|" in shown else WORDS.get(shown, "TEXT")  # choices stand as they are typed


class Format(StrEnum):
    """How something is listed or shown."""

    TABLE = "table"
    JSON = "json"


STUDY_FILE = "study.yaml"  # that `hpo init` writes, and `hpo run` runs where none is named
SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The study file (YAML).")]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database that workers share; default: HPO_STORAGE, else sqlite:///hpo.db here.",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="JSON goes to standard output alone.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Override a field of the study file, e.g. budget.trials=20."
    ),
]
RunnersOption = Annotated[
    int | None, typer.Option("--runners", help="Trials at once; default: as many as GPUs, else cores.")
]
GpusOption = Annotated[
    str, typer.Option("--gpus", help="all, none, or indices and UUIDs: 0,2. Without a GPU: the CPU.")
]
PerGpuOption = Annotated[int, typer.Option("--per-gpu", help="Runners that share one card.")]
CodeOption = Annotated[
    Path | None,
    typer.Option("--code", metavar="DIR", help="Directory that the objective's path is relative to."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
