"""The command line: parses, calls, prints, sets the exit code. Heavy imports wait inside the commands."""

from __future__ import annotations

import atexit
import copy
import errno
import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hpo.cli import (  # noqa: F401 -- imported, they have added their commands to `app`
    confirming,
    launching,
    making,
    queries,
    rights,
    running,
    sharing,
    starting,
    steering,
    trials,
    waiting,
)
from hpo.cli.app import app, in_words
from hpo.errors import ExitCode, HpoError


def main(arguments: Sequence[str] | None = None) -> None:
    """The console command `hpo`. Exits with one of `ExitCode`."""
    gc.set_threshold(200_000)  # what a short command imports stays: no looking for cycles among it
    ended: list[int] = []
    atexit.register(_leave, ended)  # before all others, and so called after them
    _mind_streams()
    try:
        status = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before or after the command itself
        status = ExitCode.INTERRUPTED
    try:
        sys.stdout.flush()
    except OSError as error:  # `hpo trials ... | head`, or a full disk
        status = status if isinstance(error, BrokenPipeError) else _unexpected(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ended.append(status)
    sys.exit(status)


def _leave(ended: list[int]) -> None:
    """End without taking every module apart, which lasts over a second where torch is one of them."""
    if ended:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(ended[0])


def run(arguments: Sequence[str]) -> int:
    """Run one command; errors a person can mend become a sentence on standard error."""
    import typer

    # Typer's own base class of usage errors; where it lives differs between typer's versions.
    usage_error: Any = typer.BadParameter.__mro__[2]

    command = command_for(arguments)
    try:
        result = command.main(list(arguments), prog_name="hpo", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.DONE
    except HpoError as error:
        _tell(str(error))
        return error.exit_code
    except usage_error as error:
        error.show()
        return ExitCode.BAD_INPUT
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _tell("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.DONE
    except SystemExit as error:  # what click makes of a reader that left, as in `hpo trials ... | head`
        if isinstance(error.__context__, BrokenPipeError):
            return ExitCode.DONE
        raise
    except Exception as error:
        return _unexpected(error)
    finally:
        queries.opened.close()


def command_for(arguments: Sequence[str]) -> Any:
    """The application, with the one command that is asked for: to make all of them takes a tenth of a second.

    With all, where something else is asked: a group's command, help, what is misspelt.
    """
    import typer

    def name(one: Any) -> str:
        return str(one.name or typer.main.get_command_name(one.callback.__name__))

    asked = [one for one in app.registered_commands if name(one) in arguments[:1]]
    made = copy.copy(app)
    if asked:
        made.registered_commands, made.registered_groups = asked, []
    return in_words(typer.main.get_command(made))


def _mind_streams() -> None:
    """What is closed (`>&-`) swallows what is written, or a database would be opened in its place; what a
    terminal's encoding lacks is escaped.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            while (opened := os.open(os.devnull, os.O_RDWR)) < descriptor:
                pass
            if opened > descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _tell(message: str) -> None:
    """Say on standard error why a command ends; where that cannot be written, the exit code says it alone."""
    from hpo.cli.output import shown_lines

    with suppress(OSError):
        print(f"hpo: {shown_lines(message)}", file=sys.stderr)


def _unexpected(error: Exception) -> int:
    """A database that went away is the user's to mend; anything else is our bug, with its traceback."""
    from storage.database.errors import StorageError
    from storage.database.faults import is_unreachable

    if isinstance(error, StorageError):
        from hpo.wiring import told

        _tell(str(error))
        return told(error).exit_code
    if is_unreachable(error):
        _tell("the database went away")
        return ExitCode.NO_DATABASE
    if isinstance(error, OSError) and error.filename is not None:  # no permission, no room, a bad name
        from storage.files.room import full_file_systems, is_full

        room = f". {full_file_systems([error.filename])}" if is_full(str(error.strerror)) else ""
        _tell(f"{str(error.filename)[:500]} cannot be used: {error.strerror}{room}")
        return ExitCode.FAILED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
        _tell(f"the output cannot be written: {error.strerror}")
        return ExitCode.FAILED
    if isinstance(error, FileNotFoundError) and not _has_directory():
        _tell("the working directory is gone; change to another")
        return ExitCode.FAILED
    if isinstance(error, UnicodeEncodeError):
        _tell("a name is no text in this locale's encoding; try again with PYTHONUTF8=1")
        return ExitCode.BAD_INPUT
    import traceback

    with suppress(OSError):
        traceback.print_exc()
    _tell("this is a bug in hpo, not in your study; nothing that was stored is lost")
    return ExitCode.FAILED


def _has_directory() -> bool:
    try:
        return bool(os.getcwd())  # noqa: PTH109 -- pathlib is not loaded for every command
    except OSError:
        return False
