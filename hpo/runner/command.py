"""A program as objective: found, started for each trial, and given what it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from hpo.errors import ObjectiveError
from hpo.objective import Objective
from hpo.runner.program import Run, why
from hpo.runner.program_files import unpack
from hpo.runner.values import ProgramError
from hpo.spec.command import Command, filled, places, shown_command
from objectives.imports import Home
from objectives.protocol import Trial

LARGEST_CODE = 16_000_000  # bytes; a larger file is data, and no part of the study's code


def command_objective(command: Command, study: str, directions: int, folder: Path) -> Objective:
    """The objective that runs a program in `folder`.

    Raises:
        ObjectiveError: there is no such program here, or it cannot be executed.
    """
    folder = Path(os.path.normpath(folder.absolute()))
    first = command[0]
    assert isinstance(first, str)
    if not places(first):
        _find(first, folder)
    words = [word for part in command for word in ([part] if isinstance(part, str) else part)]
    named = (Path(os.path.normpath(folder / word.rpartition("=")[2])) for word in words if not places(word))
    home = Home(folder, {file for file in named if folder in file.parents and _is_code(file)})
    program = Program(command, study, directions, folder)
    return Objective(program, ModuleType("command"), home, is_program=True)


@dataclass(frozen=True)
class Program:
    """Calls a command as an objective is called."""

    command: Command  # its arguments, as the study file has them
    study: str  # its name
    directions: int  # how many values a result has
    folder: Path  # where it runs

    def __call__(self, trial: Trial) -> Any:
        """Run the program to its end; its result, as an objective returns it.

        Raises:
            ProgramError: it cannot be started, fails, or says nothing that is a result.
            TrialPruned: the trial is not worth finishing.
        """
        with TemporaryDirectory(prefix="hpo-") as scratch:
            directory = Path(scratch)
            state = trial.checkpoint.load() if trial.checkpoint.latest is not None else None
            resume = None if state is None else unpack(state, directory)
            process = self._start(trial, directory, resume)
            run = Run(trial, process, directory, self.folder, self.directions)
            try:
                return run.result()
            finally:
                run.end()

    def _start(self, trial: Trial, directory: Path, resume: Path | None) -> subprocess.Popen[bytes]:
        own: dict[str, Any] = {
            "study": self.study,
            "trial": trial.number,
            "attempt": trial.attempt,
            "seed": trial.seed,
            "device": trial.device,
            "checkpoint": str(directory),
        }
        if resume is not None:
            own["resume"] = str(resume)
        arguments = filled(self.command, {**own, "python": sys.executable, **trial.config})
        environment = _usual_environment()
        for name, value in own.items():
            environment[f"HPO_{name.upper()}"] = str(value)
        environment["HPO_CONFIG"] = json.dumps(dict(trial.config), ensure_ascii=False)
        try:
            return subprocess.Popen(  # noqa: S603 -- the study's own, allowed by whoever started the worker
                arguments,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # ended whole; still in the runner's session, and so with it
            )
        except (OSError, ValueError) as error:
            raise ProgramError(f"{shown_command(arguments)[:300]} cannot be started: {why(error)}") from error


def _usual_environment() -> dict[str, str]:
    """The runner's environment as its user has it: the path to hpo itself is not the program's."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else reports come when the program has ended
    first, _, others = environment.get("PYTHONPATH", "").partition(os.pathsep)
    if first == str(Path(__file__).resolve().parents[2]):
        environment["PYTHONPATH"] = others
    return environment


def _find(program: str, folder: Path) -> None:
    """See that there is such a program.

    Raises:
        ObjectiveError: there is none, or it cannot be executed.
    """
    file = folder / program
    if "/" not in program:
        if shutil.which(program) is not None:
            return
        hint = f"; ./{program} is the file beside the study file" if file.is_file() else ""
        hint = hint or ("; {python} is the Python that hpo runs on" if program.startswith("python") else "")
        raise ObjectiveError(f"command: there is no program {program} on this machine's PATH{hint}")
    if not file.is_file():
        raise ObjectiveError(
            f"command: there is no file {file}. A path is relative to the study file; for a worker in "
            "another directory name it with --code DIR"
        )
    if not os.access(file, os.X_OK):
        raise ObjectiveError(
            f"command: {file} is not executable: chmod +x it, or put its interpreter before it, as in "
            f"[bash, {program}]"
        )


def _is_code(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size <= LARGEST_CODE
    except (OSError, ValueError):  # no name of a file
        return False
