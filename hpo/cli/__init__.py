"""The command line: parses, calls, prints, sets the exit code. Heavy imports wait inside the commands."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

from hpo.cli import importing, launching, queries, running, sharing, steering  # noqa: F401 -- they add their commands to `app`
from hpo.cli.app import app
from hpo.errors import ExitCode, HpoError


def main(arguments: Sequence[str] | None = None) -> None:
    """The console command `hpo`. Exits with one of `ExitCode`."""
    gc.set_threshold(200_000)  # what a short command imports stays: no looking for cycles among it
    try:
        status = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before or after the command itself
        status = ExitCode.INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `hpo trials ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "torch" not in sys.modules:  # whose bindings complain of what is left when they go
        gc.freeze()  # else Python looks for cycles among all modules before it exits: a third of `hpo ls`
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command; errors a person can mend become a sentence on standard error."""
    import typer

    # Typer's own base class of usage errors; where it lives differs between typer's versions.
    usage_error: Any = typer.BadParameter.__mro__[2]

    command = typer.main.get_command(app)
    try:
        result = command.main(list(arguments), prog_name="hpo", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.DONE
    except HpoError as error:
        print(f"hpo: {error}", file=sys.stderr)
        return error.exit_code
    except usage_error as error:
        error.show()
        return ExitCode.BAD_INPUT
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("hpo: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.DONE
    except SystemExit as error:  # what click makes of a reader that left, as in `hpo trials ... | head`
        if isinstance(error.__context__, BrokenPipeError):
            return ExitCode.DONE
        raise
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """A database that went away is the user's to mend; anything else is our bug, with its traceback."""
    from storage.database.engine import is_unreachable
    from storage.database.errors import StorageError

    if isinstance(error, StorageError):
        from hpo.wiring import told

        print(f"hpo: {error}", file=sys.stderr)
        return told(error).exit_code
    if is_unreachable(error):
        print("hpo: the database went away", file=sys.stderr)
        return ExitCode.NO_DATABASE
    import traceback

    traceback.print_exc()
    print("hpo: this is a bug in hpo, not in your study; nothing that was stored is lost", file=sys.stderr)
    return ExitCode.FAILED
