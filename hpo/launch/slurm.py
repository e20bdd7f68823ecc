"""Workers as the tasks of a SLURM array, submitted with submitit."""

from __future__ import annotations

import contextlib
import io
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit

from hpo.errors import HpoError, UserError
from hpo.launch.base import (
    STORAGE_VARIABLE,
    LaunchedWorker,
    Order,
    WorkerLife,
    last_lines,
    left,
    new_directory,
    outputs,
    read_beside,
)
from hpo.launch.slurm_task import STOPPED, WorkerTask, exit_file

# What is handed on to sbatch as it is.
_SBATCH = (
    *("account", "comment", "constraint", "exclude", "gres", "licenses", "mem", "mem-per-cpu", "mem-per-gpu"),
    *("nice", "nodelist", "partition", "qos", "reservation", "time"),
)
_OWN = (
    "folder",  # where scripts and output go, on a file system that the nodes share; default: beside the code
    "setup",  # a line of shell before the worker starts, for example `module load cuda`
    "drain",  # seconds before the time limit at which the worker is told to leave; default 90
    "at-limit",  # `leave` or `requeue`: what becomes of a task whose time is up; default leave
)
_DRAIN = 90
_PATIENCE = 30.0  # seconds for a command of SLURM's
_NOT_HERE = "SLURM's commands are not on this machine; say this on a login node"
_POLL = 1.0  # seconds between looks at tasks that are leaving

_LIVES = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "RESIZING"), WorkerLife.WAITING),
    **dict.fromkeys(("REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "RESV_DEL_HOLD"), WorkerLife.WAITING),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED"), WorkerLife.RUNNING),
    **dict.fromkeys(("COMPLETED", "CANCELLED"), WorkerLife.ENDED),
    **dict.fromkeys(("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"), WorkerLife.FAILED),
    **dict.fromkeys(("DEADLINE", "PREEMPTED", "REVOKED"), WorkerLife.FAILED),
}
_GOING = (WorkerLife.WAITING, WorkerLife.RUNNING)


class SlurmLauncher:
    """`--on slurm`. The handle has the job's id and the folder of its output.

    A preempted task drains and is queued again; so is one whose node fails. The storage URL travels in the
    environment that sbatch exports: the script, the pickle and the handle have only the variable's name.
    """

    name = "slurm"
    crosses_machines = True

    def submit(self, order: Order) -> dict[str, Any]:
        """Submit one array with a task for each worker."""
        order.check_options(self.name, (*_SBATCH, *_OWN))
        order.storage_url()
        if order.gpus_per_worker % 1:
            raise UserError(
                f"--gpus-per-worker {order.gpus_per_worker:g}: SLURM hands out whole GPUs; take 1 and let "
                "several trials share it with --runners"
            )
        drain = order.whole_option("drain", _DRAIN, 1, 65_535)  # as sbatch has it
        again = order.chosen_option("at-limit", "leave", "requeue") == "requeue"
        beside = order.code / "hpo-launches"  # the nodes must see the code, too
        folder = new_directory(Path(order.options.get("folder") or beside), order, "folder")
        tasks = [
            WorkerTask(
                words=tuple(order.arguments()),
                code=str(order.code),
                folder=str(folder),
                index=index,
                drain=drain,
                again_at_limit=again,
            )
            for index in range(order.workers)
        ]
        try:
            job = _submit(folder, _sbatch_parameters(order, drain), tasks)
        except HpoError:
            shutil.rmtree(folder, ignore_errors=True)  # only a script that nobody will run is there
            raise
        return {"job": job, "folder": str(folder), "workers": order.workers}

    def status(self, handle: Mapping[str, Any]) -> list[LaunchedWorker]:
        """Each worker's state: from squeue, else from how it ended, else from sacct where there is one."""
        unseen = "SLURM has forgotten it"
        queued: dict[str, tuple[str, str]] = {}
        try:
            queued = _queue(handle)
        except HpoError as error:
            unseen = str(error)
        found = [_look(handle, index, queued) for index in range(handle["workers"])]
        accounted = {} if all(found) else _accounting(handle)
        return [
            worker or accounted.get(_task(handle, index)) or LaunchedWorker(index, WorkerLife.UNKNOWN, unseen)
            for index, worker in enumerate(found)
        ]

    def logs(self, handle: Mapping[str, Any], worker: int | None, lines: int) -> str:
        """The last lines of the workers' output, over all runs of a task that was queued again."""
        folder = Path(handle["folder"])
        if not folder.is_dir():
            raise HpoError(f"the output of these workers is in {folder}, which is not on this machine")

        def output(index: int) -> str:
            return last_lines(folder / f"{_task(handle, index)}_0_log.out", lines)

        return outputs(worker, handle["workers"], output)

    def stop(self, handle: Mapping[str, Any], grace: float) -> None:
        """SIGTERM to each task, which its worker obeys; what is left after `grace` seconds is cancelled."""
        with contextlib.suppress(OSError):  # so that a task which is just being preempted stays away
            (Path(handle["folder"]) / STOPPED).touch()
        job = handle["job"]
        if not _going(handle):
            return
        _slurm("scancel", "--quiet", "--state=PENDING", job)
        _slurm("scancel", "--quiet", "--signal=TERM", job)
        deadline = time.monotonic() + grace
        while _going(handle):
            if time.monotonic() >= deadline:
                _slurm("scancel", "--quiet", job)
                return
            time.sleep(_POLL)


def _submit(folder: Path, parameters: Mapping[str, Any], tasks: list[WorkerTask]) -> str:
    """Hand the tasks to sbatch; returns the id of the job, or of the array."""
    try:
        executor = submitit.SlurmExecutor(folder=folder, python=_python())
    except RuntimeError as error:
        raise HpoError(f"--on slurm: {_NOT_HERE}") from error
    executor.update_parameters(**parameters)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the same sentence is in the error
            jobs = executor.submit_array(tasks)
    except (RuntimeError, OSError) as error:
        raise HpoError(f"sbatch refused: {str(error).strip() or error!r}") from error
    return str(jobs[0].job_id).partition("_")[0]


def _sbatch_parameters(order: Order, drain: int) -> dict[str, Any]:
    """The resources of one task in submitit's words; what submitit does not know goes to sbatch directly."""
    given = {name: order.options[name] for name in _SBATCH if name in order.options}
    parameters: dict[str, Any] = {
        "job_name": f"hpo-{order.study}",
        "time": given.pop("time", None),  # none: the partition's own
        "wckey": None,
        "nodes": 1,
        "ntasks_per_node": 1,
        "array_parallelism": order.workers,
        "stderr_to_stdout": True,
        "signal_delay_s": drain,
    }
    if "setup" in order.options:
        parameters["setup"] = [order.options["setup"]]
    if order.cpus_per_worker:
        cpus = math.ceil(order.cpus_per_worker)
        parameters["cpus_per_task"] = cpus
        parameters["srun_args"] = [f"--cpus-per-task={cpus}"]  # since 22.05 srun does not take it from sbatch
    if order.gpus_per_worker and "gres" not in given:
        parameters["gpus_per_node"] = int(order.gpus_per_worker)
    parameters["additional_parameters"] = {
        **given,
        "requeue": True,
        "signal": f"TERM@{drain}",  # what a worker obeys, instead of submitit's own signal
        "export": f"ALL,{STORAGE_VARIABLE}",
        "chdir": str(order.code),
    }
    return parameters


def _python() -> str:
    """This interpreter, as submitit puts it into the script.

    SIGTERM is ignored until the task can heed it: one that came while Python starts would otherwise end a
    preempted task as failed, for good. -P: a user's storage.py in the working directory must not shadow ours.
    """
    return f"""sh -c 'trap "" TERM; exec "$0" "$@"' {shlex.quote(sys.executable)} -P"""


def _task(handle: Mapping[str, Any], index: int) -> str:
    """The id of one worker's task; a single worker is no array."""
    return f"{handle['job']}_{index}" if handle["workers"] > 1 else str(handle["job"])


def _queue(handle: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """State and detail of the tasks that SLURM still shows; ended ones leave after some minutes.

    Raises:
        HpoError: squeue cannot say.
    """
    done = _slurm("squeue", "-h", "-r", "-t", "all", "-j", str(handle["job"]), "-o", "%i|%T|%N|%r")
    if done.returncode != 0 and "Invalid job id" in done.stderr:
        return {}
    if done.returncode != 0:
        raise HpoError(f"squeue: {done.stderr.strip()}")
    found = {}
    for line in done.stdout.splitlines():
        task, state, node, reason = line.split("|", 3)
        found[task] = (state, node if node else reason)
    return found


def _going(handle: Mapping[str, Any]) -> bool:
    return any(_LIVES.get(state) in _GOING for state, _ in _queue(handle).values())


def _look(
    handle: Mapping[str, Any], index: int, queued: Mapping[str, tuple[str, str]]
) -> LaunchedWorker | None:
    """One worker as the queue or its own last words have it; None when neither does."""
    task = _task(handle, index)
    state, where = queued.get(task, ("", ""))
    life = _LIVES.get(state)
    if life in _GOING:
        return LaunchedWorker(index, life, f"task {task}, {where}" if where else f"task {task}")
    with contextlib.suppress(OSError, ValueError):
        return left(index, int(read_beside(exit_file(handle["folder"], index))), f"task {task}")
    if life is None:
        return None
    return LaunchedWorker(index, life, f"task {task}, {state.lower()}")


def _accounting(handle: Mapping[str, Any]) -> dict[str, LaunchedWorker]:
    """What sacct remembers; nothing on a cluster that keeps no accounts."""
    try:
        done = _slurm("sacct", "-n", "-X", "-P", "-j", str(handle["job"]), "-o", "JobID,State")
    except HpoError:
        return {}
    found = {}
    indices = {_task(handle, index): index for index in range(handle["workers"])}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        task, _, said = line.partition("|")
        state = said.split()[0] if said else ""  # "CANCELLED by 1000"
        if task in indices and state in _LIVES:
            found[task] = LaunchedWorker(indices[task], _LIVES[state], f"task {task}, {state.lower()}")
    return found


def _slurm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM's.

    Raises:
        HpoError: it is not here, or does not answer.
    """
    if shutil.which(words[0]) is None:
        raise HpoError(_NOT_HERE)
    try:
        return subprocess.run(  # noqa: S603 -- SLURM's own commands
            words, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HpoError(f"SLURM does not answer {words[0]} within {_PATIENCE:g} s") from error


LAUNCHER = SlurmLauncher()
