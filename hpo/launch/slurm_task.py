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

_PREEMPTED = "preempted"
STOPPED = "stopped"  # a file of this name in the launch's folder: `hpo launch stop` was said
_SLURM_PATIENCE = 60  # seconds for a command of SLURM's
_UNTIL_ENDED = 600  # seconds in which SLURM ends a task that is queued again, or preempted
_ROUNDING = 60  # seconds by which SLURM may signal too early, as its manual says of --signal


@dataclass(frozen=True)
class WorkerTask:
    """Called on the node. It is pickled into the launch's folder, so it holds names and paths, no secret.

    Attributes:
        words: what follows `hpo` on the worker's command line.
        code: the worker's working directory.
        folder: the launch's folder.
        index: which worker this is.
        drain: seconds before the time limit at which SLURM sends SIGTERM.
        again_at_limit: whether the task is queued again when its time is up, too.
    """

    words: tuple[str, ...]
    code: str
    folder: str
    index: int
    drain: int
    again_at_limit: bool

    def __call__(self) -> int:
        """Run the worker to its end; ends this process with the worker's exit status unless that is 0."""
        if self._stopped:
            return self._end(0)
        exit_file(self.folder, self.index).unlink(missing_ok=True)  # of an earlier run of this task
        status, told = self._work()
        if told and not self._stopped and (why := why_again(self.drain if self.again_at_limit else 0)):
            print(f"hpo: {why}; this task is queued again", flush=True)
            queued = _slurm("scontrol", "requeue", job_id()) is not None
            if queued or why == _PREEMPTED:
                time.sleep(_UNTIL_ENDED)  # SLURM ends this process; who leaves first is not queued again
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
        process = subprocess.Popen(  # noqa: S603 -- our own command
            [sys.executable, "-P", "-m", "hpo", *self.words], cwd=self.code
        )
        if told:  # before there was anyone to tell
            process.terminate()
        return process.wait(), told

    @property
    def _stopped(self) -> bool:
        return (Path(self.folder) / STOPPED).exists()

    def _end(self, status: int) -> int:
        code = 128 - status if status < 0 else status  # as a shell counts a signal
        write_whole(exit_file(self.folder, self.index), f"{code}\n", "worker's exit status")
        if code:
            raise SystemExit(code)
        return code


def exit_file(folder: str, index: int) -> Path:
    """Where a worker's exit status is kept, for when SLURM has forgotten the job."""
    return Path(folder) / f"worker-{index}.exit"


def job_id() -> str:
    """This task's id, as SLURM's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def why_again(drain: int) -> str | None:
    """Why SLURM said SIGTERM, if that is a reason to be queued again.

    Args:
        drain: seconds before the time limit at which it does; 0: that is no reason.
    """
    facts = dict(word.split("=", 1) for word in (show_job() or "").split() if "=" in word)
    if facts.get("JobState") not in ("RUNNING", "SIGNALING"):  # cancelled, or queued again already
        return None
    preempted, started = _moment(facts.get("PreemptTime")), _moment(facts.get("StartTime"))
    if preempted is not None and preempted >= (started or 0.0):  # not an earlier run of this task
        return _PREEMPTED
    end = _moment(facts.get("EndTime"))
    if drain and end is not None and end - time.time() <= drain + _ROUNDING:
        return "the time limit is near"
    return None


def show_job() -> str | None:
    """This task as SLURM sees it, in words NAME=VALUE."""
    return _slurm("scontrol", "show", "job", "--oneliner", job_id())


def _slurm(*words: str) -> str | None:
    """What a command of SLURM's printed; None when it failed, which then stands in the task's output."""
    try:
        return subprocess.run(  # noqa: S603 -- SLURM's own commands
            words,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=_SLURM_PATIENCE,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        print(f"hpo: {error}", file=sys.stderr, flush=True)
        return None


def _moment(text: str | None) -> float | None:
    """A time as SLURM prints it (this machine's own time zone), in seconds since the epoch."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:  # None, N/A, Unknown
        return None
