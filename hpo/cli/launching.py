"""Commands that start workers elsewhere and find them again: launch, launch logs, launch stop, launches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hpo.cli.app import Format, FormatOption, StorageOption, StudyArgument, app
from hpo.cli.output import print_json, print_rows, say
from hpo.cli.queries import open_existing, open_study
from hpo.errors import UserError

LEAVING = 10.0  # seconds beyond a worker's own grace period, for its last words to the database


class StartUnlessNamed(TyperGroup):
    """`hpo launch STUDY ...` means `hpo launch start STUDY ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `start` in front unless a command of the group, or a request for help, is there."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["start", *args]
        return super().parse_args(ctx, args)


launch_app = typer.Typer(
    cls=StartUnlessNamed,
    no_args_is_help=True,
    rich_markup_mode=None,
    help=(
        "Start workers with a launcher, on this machine or a cluster: `hpo launch STUDY --on ray`. A study "
        "named like one of the commands here is meant by `hpo launch start STUDY`."
    ),
)
app.add_typer(launch_app, name="launch")

LaunchArgument = Annotated[int, typer.Argument(metavar="ID", help="Which launch; `hpo launches` lists them.")]


@launch_app.command()
def start(
    study: StudyArgument,
    on: Annotated[str, typer.Option(metavar="LAUNCHER", help="local, ray or slurm.")],
    worker_options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- WORKER OPTIONS]", help="Passed on to `hpo worker`, for example -- --count 5."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="How many workers to start.")] = 1,
    runners: Annotated[
        int | None, typer.Option(help="Trials at once in each; default: one for each of its GPUs or cores.")
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-worker", help="A fraction shares a card: 0.5; 0 is the CPU.")
    ] = 0.0,
    cpus: Annotated[
        float | None, typer.Option("--cpus-per-worker", help="Cores reserved for each worker.")
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory of the objective, there too; default: this one."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="The launcher's own, may be repeated. local: logs=DIR. ray: address=HOST:PORT (else "
            "RAY_ADDRESS), ship=true sends the code, restarts=N, env=NAME,NAME hands variables on; "
            "RAY_AUTH_MODE=token works as Ray documents it. slurm: partition, account, qos, time, gres, "
            "constraint, mem and more as sbatch has them; folder=DIR on the shared file system, "
            "setup=COMMAND before the worker, drain=SECONDS before the time limit, at-limit=requeue.",
        ),
    ] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Start workers of a study and return; they outlive this shell. `start` may be left out."""
    from hpo.launch import stored
    from hpo.launch.base import Order, hand_over

    passed = tuple(worker_options or ())
    _check_worker_options(passed)
    order = Order(
        study=study,
        workers=workers,
        code=(code or Path.cwd()).absolute(),
        runners=runners,
        gpus_per_worker=gpus,
        cpus_per_worker=cpus,
        options=_options(option or []),
        worker_arguments=passed,
    )
    database, row = open_study(storage, study)
    hand_over(database)
    made = stored.start(database, row, on, order)
    if format_ is Format.JSON:
        print_json({"id": made.id, "study": study, "on": on, "workers": made.workers})
    else:
        count = f"{made.workers} worker{'s' if made.workers > 1 else ''}"
        say(f"launch {made.id}: {count} of {study} on {on}; `hpo launches {study}` shows what they do")


@launch_app.command("logs")
def launch_logs(
    launch: LaunchArgument,
    worker: Annotated[int | None, typer.Option(help="Only this one: 0, 1, ...")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines of each, from the end.")] = 50,
    storage: StorageOption = None,
) -> None:
    """Print what launched workers printed. What a trial printed: `hpo logs STUDY/TRIAL`."""
    from hpo.launch import stored

    database = open_existing(storage)
    print(stored.logs(database, stored.get(database, launch), worker, lines), end="")


@launch_app.command("stop")
def launch_stop(
    launch: LaunchArgument,
    grace: Annotated[
        float | None, typer.Option(help="Seconds until workers are killed; default: HPO_GRACE and 10 more.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Only note it as stopped: its machine or cluster is gone.")
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Stop launched workers: they checkpoint, give their tickets back and leave; the study goes on."""
    from hpo.launch import stored
    from hpo.settings import Settings

    if grace is not None and grace < 0:
        raise UserError(f"--grace must not be negative, got {grace:g}")
    database = open_existing(storage)
    row = stored.get(database, launch)
    if row.stopped is not None:
        say(f"launch {row.id} was stopped already")
    elif forget:
        stored.forget(database, row)
        say(f"launch {row.id} is noted as stopped; workers that still run go on with {row.study}")
    else:
        stored.stop(
            database, row, Settings.from_environment(storage).grace + LEAVING if grace is None else grace
        )
        say(f"launch {row.id} is stopped; what its workers held waits for others")


@app.command()
def launches(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Only its launches.")] = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """List launches with the state of each of their workers."""
    from hpo.launch import stored
    from hpo.studies.reading import get_study

    database = open_existing(storage)
    row = None if study is None else get_study(database, study)
    found = stored.list_all(database, row)
    if format_ is Format.TABLE:
        for launch in found:
            launch["workers"] = [
                f"{worker['worker']} {worker['state']}"
                + (f" ({worker['detail']})" if worker["detail"] else "")
                for worker in launch["workers"]
            ]
    columns = ("id", "study", "on", "from", "state", "workers", "started", "stopped")
    print_rows(
        format_, found, columns, "nothing was launched yet; `hpo launch STUDY --on local` starts workers"
    )


def _options(texts: list[str]) -> dict[str, str]:
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--option {text}: write NAME=VALUE, for example --option address=10.0.0.1:6379")
        options[name.strip()] = value.strip()
    return options


def _check_worker_options(words: tuple[str, ...]) -> None:
    """Refuse here what `hpo worker` would refuse there, and what must not stand on a command line."""
    if any(word == "--storage" or word.startswith("--storage=") for word in words):
        raise UserError("give --storage to `hpo launch` itself: workers get it where nobody can read it")
    group: Any = typer.main.get_command(app)
    group.commands["worker"].make_context("hpo worker", ["STUDY", *words])
