"""Commands for what leaves the service: report, export, evaluate, replay, dashboard; and doctor, db."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.app import CodeOption, Format, FormatOption, GpusOption, StorageOption, StudyArgument, app
from hpo.cli.output import print_json, print_rows, print_table, say
from hpo.cli.queries import open_existing, open_here, open_study
from hpo.cli.running import CommandsOption
from hpo.cli.trials import find_trial
from hpo.errors import ExitCode, UserError
from hpo.settings import ALONE

if TYPE_CHECKING:
    from storage.history.records import TrialRecord

database_app = typer.Typer(help="The database itself.", no_args_is_help=True)
app.add_typer(database_app, name="db")


@app.command()
def report(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Several are compared.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=".html, or .md for Markdown; default: report-STUDY.html."),
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write pictures there.")] = None,
    storage: StorageOption = None,
) -> None:
    """Write a report that opens offline; several studies are compared in one."""
    os.environ.update(ALONE | os.environ)
    from hpo.files import file_name
    from hpo.report.markdown import write_markdown
    from hpo.report.page import write_report
    from hpo.report.pictures import write_pngs
    from hpo.studies import reading

    database = open_existing(storage)
    histories = [reading.history(database, name) for name in dict.fromkeys(studies)]
    names = "-".join(file_name(history.name) for history in histories)
    path = output or Path(f"report-{names[:100]}.html")
    if path.suffix.lower() in (".md", ".markdown"):
        print(write_markdown(histories, path))
    else:
        print(write_report(histories, path))
    if png is not None:
        for picture in write_pngs(histories, png):
            print(picture)


@app.command()
def export(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="x.csv, x.json or x.parquet.")],
    storage: StorageOption = None,
) -> None:
    """Write every trial to a CSV, JSON or Parquet file."""
    from hpo.studies import reading
    from hpo.studies.exporting import export as write

    history = reading.history(open_existing(storage), study, evaluated=False)
    write(history, output)
    say(f"{len(history.trials)} trials of {study} written to {output}")


@app.command()
def evaluate(
    study: StudyArgument,
    code: CodeOption = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew.")] = False,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Measure the winner on the test set, once; the search never sees it."""
    from hpo.studies import evaluation

    database, row = open_study(storage, study)
    found = evaluation.evaluate(database, row, code or Path.cwd(), again=again)
    if found is None:
        say(f"hpo: the objective {row.spec['objective']} has no evaluate(trial, checkpoint) beside it")
        return ExitCode.FAILED
    if format_ is Format.JSON:
        print_json(found)
    else:
        metrics = found.get("metrics", found)
        print_table(("metric", str(found.get("split", "test"))), list(metrics.items()), title=study)
    return ExitCode.DONE


@app.command()
def predict(
    study: Annotated[
        str, typer.Argument(metavar="STUDY|MODEL", help="A study, or a .pt2 file of `hpo best --export`.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="DATA", help="A CSV or Parquet file; a folder of pictures.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A CSV or Parquet file; default: CSV to the screen.")
    ] = None,
    code: CodeOption = None,
    storage: StorageOption = None,
) -> None:
    """Predict new data by the winner: the class and the probability of each, or the value."""
    import tempfile

    from hpo.files import write_whole
    from hpo.studies import evaluation
    from objectives.errors import TrainingError
    from objectives.winner import predict_file

    with tempfile.TemporaryDirectory() as directory:
        model = Path(study)
        if model.suffix != ".pt2":
            model = Path(directory, "model.pt2")
            evaluation.export(*open_study(storage, study), code or Path.cwd(), model)
        try:
            found = predict_file(model, source)
        except TrainingError as error:
            raise UserError(str(error)) from error
    if output is None:
        print(found.to_csv(index=False), end="")
        return
    parquet = output.suffix.lower() in (".parquet", ".pq")
    write_whole(
        output, found.to_parquet(index=False) if parquet else found.to_csv(index=False), "predictions"
    )
    say(f"{len(found)} predictions written to {output}")


@app.command()
def refit(
    study: StudyArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The weights (.pt), or one model: .pt2 or .onnx.")
    ],
    code: CodeOption = None,
    storage: StorageOption = None,
) -> None:
    """Train the winner again on training and validation data together, as many epochs as counted.

    Nothing is written into the study.
    """
    from hpo.studies import evaluation

    number = evaluation.export(*open_study(storage, study), code or Path.cwd(), output, refit=True)
    say(f"trial {number}, trained again on all but the test data, written to {output}")


@app.command()
def replay(
    name: Annotated[
        str, typer.Argument(metavar="STUDY[/TRIAL]", help="A trial (digits/17), or all of a study.")
    ],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Of a study, so many trials, evenly spaced.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads other than the study's.")] = None,
    code: Annotated[
        Path, typer.Option(metavar="DIR|stored", help="Its directory; or the code of then.")
    ] = Path(),
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Train a trial again from what is stored and compare it epoch by epoch; exit 1 where it differs.

    Nothing is written into the study.
    """
    from contextlib import nullcontext, redirect_stdout

    from hpo.report.records.scores import thin
    from hpo.studies import reading
    from hpo.studies.answers import plain
    from hpo.worker.replay import REPLAYED, stored_code
    from hpo.worker.replay import replay as train_again

    database = open_existing(storage)
    if "/" in name:
        row, record = find_trial(database, name)
        chosen: Sequence[TrialRecord] = [record]
    else:
        row = reading.get_study(database, name)
        ended = [
            trial
            for trial in reading.history(database, name, evaluated=False).trials
            if trial.state in REPLAYED and trial.attempts and not trial.foreign
        ]
        chosen = thin(ended, len(ended) if sample is None else sample)
    found = []
    with stored_code(row, Path.cwd()) if code == Path("stored") else nullcontext(code.absolute()) as folder:
        for record in chosen:
            with redirect_stdout(sys.stderr):
                found.append(train_again(database, row, record, folder, threads))
            if format_ is Format.TABLE:
                print(f"{row.name}/{record.number} {found[-1].said}", flush=True)
    same = sum(one.same for one in found)
    if format_ is Format.JSON:
        print_json(plain(found if "/" not in name else found[0]))
    elif "/" not in name:
        how = "within the tolerance of lanes" if any(one.tolerance for one in found) else "bit-exact"
        print(f"{same} of {len(found)} {how}")
    return ExitCode.DONE if same == len(found) and found else ExitCode.FAILED


@app.command()
def dashboard(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="HPO_DASHBOARD_TOKEN",
            help="Opens everything, actions too; on loopback without one a link that opens once is printed.",
        ),
    ] = None,
    view_token: Annotated[
        str | None,
        typer.Option(envvar="HPO_DASHBOARD_VIEW_TOKEN", help="Opens everything, but acts on nothing."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name this server goes by, say a proxy's.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Also open it in a browser.")] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Speak TLS: certificate and its chain, in PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's key, in PEM.")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Browse studies live in a web browser."""
    os.environ.update(ALONE | os.environ)
    from hpo.dashboard.server import Tls, serve

    if (tls_cert is None) != (tls_key is None):
        raise UserError("--tls-cert and --tls-key belong together; give both")
    settings, database = open_here(storage)
    serve(
        database,
        host,
        port,
        say,
        token=token or None,
        view_token=view_token or None,
        hosts=allow_host or (),
        lease=settings.lease,
        open_browser=open_,
        tls=None if tls_cert is None or tls_key is None else Tls(tls_cert, tls_key),
    )


@app.command()
def mcp(
    http: Annotated[
        bool, typer.Option("--http", help="Serve http://127.0.0.1:PORT/mcp instead of standard streams.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="For --http.")] = 8765,
    view: Annotated[bool, typer.Option("--view", help="Look only; without a token.")] = False,
    code: CodeOption = None,
    allow_commands: CommandsOption = False,
    storage: StorageOption = None,
) -> None:
    """Let an agent search, by the Model Context Protocol: create, run, look, steer, confirm, report.

    HPO_TOKEN holds a token (`hpo token add`) whose rights and limits count; without one all may be done.
    Over HTTP each request brings its own token, and one is made for this start.
    """
    try:
        from hpo.dashboard import mcp_server
    except ModuleNotFoundError as error:
        raise UserError(f"hpo mcp needs the package {error.name}: pip install 'hpo[mcp]'") from error
    settings, database = open_here(storage)
    served = mcp_server.Served(database, settings, (code or Path.cwd()).absolute(), allow_commands)
    if http:
        mcp_server.serve_http(served, port, say)
    else:
        mcp_server.serve_stdio(served, os.environ.get("HPO_TOKEN"), view=view)


@app.command()
def doctor(
    target: Annotated[
        str | None, typer.Argument(metavar="[STUDY|SPEC]", help="Also check its objective here.")
    ] = None,
    gpus: GpusOption = "all",
    code: CodeOption = None,
    storage: StorageOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Say what this machine has and what it lacks, before it costs a trial."""
    from hpo.cli.diagnosis import diagnose
    from hpo.settings import Settings

    found = [vars(one) for one in diagnose(Settings.from_environment(storage), target, gpus, code)]
    print_rows(format_, found, ("check", "state", "found"), "nothing to check")
    return ExitCode.FAILED if any(one["state"] == "wrong" for one in found) else ExitCode.DONE


@database_app.command("upgrade")
def upgrade(storage: StorageOption = None) -> None:
    """Create the tables, or bring them to this version. Safe from many machines at once."""
    say(f"{open_here(storage)[1].shown_url} is up to date")
