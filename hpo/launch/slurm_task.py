"""One task of a SLURM array: runs `hpo worker`, and has the task queued again when it was preempted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hpo.files import write_whole
from hpo.launch.base import STORAGE_VARIABLE

STOPPED = "stopped"  # a file of this name in the launch's folder: `hpo launch stop` was said
_SLURM_PATIENCE = 60  # seconds for a command of SLURM's
_ROUNDING = 60  # seconds by which SLURM may signal too early, as its manual says of --signal


@dataclass(frozen=True)
class WorkerTask:
    """Called on the node. It is pickled into the launch's folder, so it holds names and paths, no secret.

    Attributes:
        words: what follows `hpo` on the worker's command line.
        code: the worker's working directory.
        folder: the launch's folder.
        index: which worker this is.
        storage_env: name of the environment variable that holds the storage URL.
        drain: seconds before the time limit at which SLURM sends SIGTERM.
        again_at_limit: whether the task is queued again when its time is up, too.
    """

    words: tuple[str, ...]
    code: str
    folder: str
    index: int
    storage_env: str
    drain: int
    again_at_limit: bool

    def __call__(self) -> int:
        """Run the worker to its end; ends this process with the worker's exit status unless that is 0."""
        if self._stopped:
            return self._end(0)
        exit_file(self.folder, self.index).unlink(missing_ok=True)  # of an earlier run of this task
        status, told = self._work()
        if told and not self._stopped and (why := self._why_again()) is not None:
            self._say(f"{why}; this task is queued again")
            _slurm("scontrol", "requeue", job_id())
            time.sleep(_SLURM_PATIENCE)  # SLURM ends this process; leaving first would end the task for good
        return self._end(status)

    def _work(self) -> tuple[int, bool]:
        """The worker's exit status, and whether SLURM said SIGTERM meanwhile."""
        told = False
        process: subprocess.Popen[bytes] | None = None

        def forward(_number: int, _frame: Any) -> None:
            nonlocal told
            told = True
            if process is not None:
                process.terminate()

        signal.signal(signal.SIGTERM, forward)
        environment = {**os.environ, STORAGE_VARIABLE: os.environ[self.storage_env]}
        process = subprocess.Popen(  # noqa: S603 -- our own command
            [sys.executable, "-P", "-m", "hpo", *self.words], cwd=self.code, env=environment
        )
        if told:  # before there was anyone to tell
            process.terminate()
        return process.wait(), told

    @property
    def _stopped(self) -> bool:
        return (Path(self.folder) / STOPPED).exists()

    def _why_again(self) -> str | None:
        """Why SLURM said SIGTERM, if that is a reason to be queued again."""
        shown = _slurm("scontrol", "show", "job", "--oneliner", job_id())
        facts = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        if facts.get("JobState") == "CANCELLED":
            return None
        if _moment(facts.get("PreemptTime")) is not None:
            return "preempted"
        end = _moment(facts.get("EndTime"))
        if self.again_at_limit and end is not None and end - time.time() <= self.drain + _ROUNDING:
            return "the time limit is near"
        return None

    def _end(self, status: int) -> int:
        code = 128 - status if status < 0 else status  # as a shell counts a signal
        write_whole(exit_file(self.folder, self.index), f"{code}\n", "worker's exit status")
        if code:
            raise SystemExit(code)
        return code

    def _say(self, text: str) -> None:
        print(f"hpo: {text}", flush=True)


def exit_file(folder: str, index: int) -> Path:
    """Where a worker's exit status is kept, for when SLURM has forgotten the job."""
    return Path(folder) / f"worker-{index}.exit"


def job_id() -> str:
    """This task's id, as SLURM's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _slurm(*words: str) -> str:
    """What a command of SLURM's printed; nothing when it failed, which it says on standard error itself."""
    try:
        done = subprocess.run(  # noqa: S603 -- SLURM's own commands
            words, stdout=subprocess.PIPE, text=True, timeout=_SLURM_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"hpo: {' '.join(words)}: {error}", file=sys.stderr, flush=True)
        return ""
    return done.stdout


def _moment(text: str | None) -> float | None:
    """A time as SLURM prints it (this machine's own time zone), in seconds since the epoch."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:  # None, N/A, Unknown
        return None
