"""Run trials of a study from a Python process: a notebook's kernel, or a script."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hpo.errors import CodeDiffersError, DatabaseError, ExitCode, HpoError, UserError
from hpo.fingerprint import differences, own_fingerprint
from hpo.objective import CELL, own_objective
from hpo.runner.kernel import run_trials
from hpo.spec import StudySpec
from hpo.worker.kernel import Request, start
from storage.database.engine import Database
from storage.database.records import StudyRow

_MEANING = {
    ExitCode.BAD_INPUT: UserError,
    ExitCode.NO_DATABASE: DatabaseError,
    ExitCode.CODE_DIFFERS: CodeDiffersError,
}


def work(
    database: Database,
    row: StudyRow,
    objective: Callable[[Any], Any] | None,
    *,
    trials: int | None = None,
    runners: int = 1,
    code: str | os.PathLike[str] = ".",
    allow_mismatch: bool = False,
    allow_commands: bool = False,
) -> None:
    """Run the study's trials until it has ended; Ctrl-C gives back what runs.

    Args:
        database: where the study is.
        row: the study.
        objective: the function; None: what the study names, in runners.
        trials: at most so many.
        runners: 1: a function of this process runs in it.
        code: directory that the objective which the study names is relative to.
        allow_mismatch: run although the code differs from the study's.
        allow_commands: run a study whose objective is a command.

    Raises:
        CodeDiffersError: the function is not the one whose results the study has.
        HpoError: a sentence that says why this goes on no more.
        KeyboardInterrupt: after all was given back.
    """
    own = None if objective is None else own_objective(objective)
    path = StudySpec.model_validate(row.spec).objective_path
    if own is None and path is not None and path.module == CELL:
        raise UserError(f"{row.name} is a study of a function: say which, study.run({path.callable})")
    here = None
    if own is not None:
        if runners > 1 and own.why_not:
            raise UserError(
                f"runners={runners} needs an objective that other processes can import, and {own.why_not}: "
                "put it into a .py file and import it from there, or leave runners at 1 to run it in this "
                "process"
            )
        here = own_fingerprint(own)
        unlike = [] if row.code is None or allow_mismatch else differences(here, row.code)
        if unlike:
            raise CodeDiffersError(
                f"{own.called} is not what the results of {row.name} came from:\n"
                + "\n".join(f"  {line}" for line in unlike)
                + "\nGive it a study of its own with study='NAME'; or mix the results all the same with "
                "allow_mismatch=True, which marks every trial it runs"
            )
    folder = str(Path(code).absolute() if own is None else own.folder)
    in_kernel = own is not None and runners == 1
    mine, theirs = socket.socketpair() if in_kernel else (None, None)
    url = database.url.render_as_string(hide_password=False)
    pipe = None if theirs is None else theirs.fileno()
    request = Request(
        url, row.name, folder, trials, allow_mismatch, allow_commands, None if in_kernel else runners, pipe
    )
    worker = start(request)
    if theirs is not None:
        theirs.close()
    outcome: list[Any] = []
    reader = threading.Thread(target=_read, args=(worker, _teller(), outcome), daemon=True)
    reader.start()
    interrupt = _Interrupt(worker)
    try:
        if own is not None and here is not None and mine is not None:
            run_trials(mine.detach(), own.objective, here, interrupt.set)
        worker.wait()
    except KeyboardInterrupt:
        interrupt.insist()
        raise
    finally:
        assert worker.stdin is not None
        worker.stdin.close()  # after an error of our own, the worker follows
        worker.wait()
        reader.join()
    if not outcome:
        raise HpoError(
            f"the worker of {row.name} died (exit status {worker.returncode}). What had ended is kept; the "
            "same call goes on from there"
        )
    exit_code, why = outcome
    if exit_code:
        raise _MEANING.get(exit_code, HpoError)(why)


class _Interrupt:
    """Ctrl-C as it is handed on to the worker."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        self._worker = worker
        self._is_set = False

    def set(self) -> None:
        """Have the worker give back what runs."""
        self._worker.send_signal(signal.SIGINT)
        self._is_set = True

    def insist(self) -> None:
        """Wait until it has; interrupted meanwhile, it does so at once."""
        while True:
            if not self._is_set:
                self.set()
            self._is_set = False
            with suppress(KeyboardInterrupt):
                self._worker.wait()
                return


def _read(worker: subprocess.Popen[str], tell: Callable[[str], None], outcome: list[Any]) -> None:
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            said = json.loads(line)
            if "outcome" in said:
                outcome.extend(said["outcome"])
            else:
                tell(said["line"])


def _teller() -> Callable[[str], None]:
    """Where progress goes: below the cell of a notebook in one line that changes, else to standard error."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    if running is None or not hasattr(running, "kernel"):
        return lambda line: print(line, file=sys.stderr, flush=True)
    display = import_module("IPython.display").display
    shown = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda line: shown.update({"text/plain": line}, raw=True)
