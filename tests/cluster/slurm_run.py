"""A search on a real SLURM in which a node dies and a partition of higher priority takes the other one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.database.records import AttemptState
from storage.queue import launches
from tests.cluster.seen import audit_line, checkpoint_on, resumed, trials_on
from tests.cluster.slurm_cluster import SlurmCluster
from tests.faults.lab import Lab
from tests.support.command import HpoResult
from tests.support.pg import PASSWORD, PgServer
from tests.support.waiting import wait_until

CELLS, WORKERS = 200, 4
STEPS, STEP_SECONDS = 20, 0.1


class SlurmLab:
    """One study whose workers are tasks of a SLURM array."""

    def __init__(self, lab: Lab, cluster: SlurmCluster) -> None:
        self.lab = lab
        self.cluster = cluster
        self._launch = 0
        lab.env.update(cluster.environment, HPO_LEASE="5", HPO_GRACE="10")

    def create(self, cells: int, steps: int = STEPS, step_seconds: float = STEP_SECONDS) -> None:
        """A grid of trials that save a checkpoint after each step."""
        fixed = {"steps": steps, "step_seconds": step_seconds}
        self.lab.create(cells=cells, objective="objective.py:saving", fixed=fixed)

    def hpo(self, *words: str, timeout: float = 60) -> HpoResult:
        """Run an `hpo` command to its end."""
        return self.lab.start(*words).wait(timeout).check()

    def launch(self, workers: int, *options: str) -> int:
        """`hpo launch`; returns the launch's id."""
        words = ("launch", "study", "--on", "slurm", "--workers", str(workers), "--format", "json")
        words += ("--option", "partition=low", *options)
        self._launch = int(self.hpo(*words).json["id"])
        return self._launch

    def launched(self) -> dict[str, Any]:
        """The newest launch as `hpo launches` has it."""
        found: dict[str, Any] = self.hpo("launches", "study", "--format", "json").json[-1]
        return found

    def states(self) -> list[str]:
        """State of each worker of the newest launch."""
        return [worker["state"] for worker in self.launched()["workers"]]

    @property
    def handle(self) -> dict[str, Any]:
        """What is stored of the newest launch."""
        return self.lab.open().read(lambda connection: launches.handle_of(connection, self._launch))

    @property
    def job(self) -> str:
        """SLURM's id of the newest launch."""
        return str(self.handle["job"])

    def tasks(self) -> dict[str, tuple[str, str]]:
        """State and node of each task."""
        return self.cluster.tasks(self.job)

    def on(self, node: str) -> list[str]:
        """The tasks that run on a node."""
        return [task for task, (state, where) in self.tasks().items() if (state, where) == ("RUNNING", node)]

    def restarts(self) -> dict[str, int]:
        """How often each task was queued again."""
        shown = self.cluster.command("scontrol", "show", "job", "--oneliner", self.job).splitlines()
        found = {}
        for line in shown:
            facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
            name = f"{self.job}_{facts['ArrayTaskId']}" if "ArrayTaskId" in facts else self.job
            found[name] = int(facts["Restarts"])
        return found

    def secrets_seen(self) -> list[str]:
        """Where the database's password can be read: files of the launch, SLURM's records, the handle."""
        files = sorted(Path(self.handle["folder"]).iterdir())
        assert any(file.suffix == ".pkl" for file in files), files
        places = {file.name: file.read_bytes().decode(errors="replace") for file in files}
        places["scontrol show job"] = self.cluster.command("scontrol", "show", "job", "-dd", self.job)
        places["the stored handle"] = json.dumps(self.handle)
        return [name for name, text in places.items() if PASSWORD in text]


def run_slurm(folder: Path, seed: int = 1) -> str:
    """Four workers, 200 trials, one node killed, two tasks preempted; returns the figures in a paragraph."""
    with _slurm(folder, seed) as slurm:
        return _search(slurm)


def run_slurm_time_limits(folder: Path, seed: int = 1) -> str:
    """Tasks whose time is up drain; returns the figures in a paragraph."""
    with _slurm(folder, seed) as slurm:
        return _time_limits(slurm)


@contextmanager
def _slurm(folder: Path, seed: int) -> Iterator[SlurmLab]:
    server = PgServer()
    lab = Lab(folder, server.start().create_database(), seed)
    try:
        with SlurmCluster(grace=20) as cluster:
            yield SlurmLab(lab, cluster)
    finally:
        lab.close()
        server.close()


def _search(slurm: SlurmLab) -> str:
    slurm.create(CELLS)
    since = time.monotonic()
    number = slurm.launch(WORKERS, "--option", "gres=gpu:1", "--option", "time=30")
    lab = slurm.lab
    wait_until(lambda: checkpoint_on(lab, "node1"), 90, every=0.2, what="a trial on node1 saves")
    wait_until(lambda: trials_on(lab, "node2"), 90, every=0.2, what="trials run on node2")
    assert slurm.states() == ["running"] * WORKERS

    killed_at = time.monotonic()
    killed = slurm.on("node1")
    slurm.cluster.kill_node("node1")
    wait_until(lambda: not slurm.on("node1"), 90, every=0.5, what="SLURM notices that the node is down")
    noticed = time.monotonic() - killed_at
    slurm.cluster.start_node("node1")
    wait_until(lambda: len(slurm.on("node1")) == len(killed), 60, every=0.5, what="tasks run there again")
    back = time.monotonic() - killed_at

    wait_until(lambda: trials_on(lab, "node1"), 60, every=0.2, what="their workers run trials")
    lost = len(trials_on(lab, "node1", AttemptState.LOST))
    assert lost, lab.attempts()

    went_on = len(resumed(lab))
    wait_until(lambda: checkpoint_on(lab, "node2"), 60, every=0.2, what="a trial on node2 saves")
    preempted_at = time.monotonic()
    preempted = slurm.on("node2")
    high = slurm.cluster.occupy("node2", 10)
    wait_until(lambda: not slurm.on("node2"), 60, every=0.2, what="preempted tasks leave")
    left = time.monotonic() - preempted_at
    wait_until(lambda: high in slurm.cluster.tasks(high), 10, every=0.2, what="the other job is there")
    wait_until(
        lambda: len(slurm.on("node2")) == len(preempted), 90, every=0.5, what="preempted tasks run again"
    )
    again = time.monotonic() - preempted_at

    lab.wait_for_end(400)
    wait_until(lambda: set(slurm.states()) == {"ended"}, 60, every=0.5, what="every task ends")
    wall = time.monotonic() - since
    restarts = slurm.restarts()
    for task in (*killed, *preempted):
        assert restarts[task] == 1, restarts
    steps = resumed(lab)
    assert trials_on(lab, "node2", AttemptState.RELEASED), lab.attempts()
    assert len(steps) > went_on, "no preempted trial went on from its checkpoint"
    assert lab.completed_points() == list(range(CELLS))
    assert slurm.secrets_seen() == []
    logs = slurm.hpo("launch", "logs", str(number), "--lines", "10000").out
    assert logs.count("preempted; this task is queued again") == len(preempted), logs
    return (
        f"{WORKERS} workers, {CELLS} cells of {STEPS} steps, {wall:.0f} s. "
        f"node1 killed with {len(killed)} tasks and {lost} trials: down after {noticed:.0f} s, "
        f"the tasks ran again after {back:.0f} s. {len(preempted)} tasks preempted: drained and gone "
        f"after {left:.1f} s, ran again after {again:.0f} s. {len(steps)} trials went on from "
        f"checkpoints, of steps {', '.join(map(str, steps))}. Attempts {dict(lab.attempts())}. "
        f"Audit: {audit_line(lab)}"
    )


def _time_limits(slurm: SlurmLab) -> str:
    """Of two workers with two minutes each, one is queued again when its time is nearly up, one leaves."""
    slurm.create(cells=2, steps=2000)
    short = ("--option", "time=2", "--option", "drain=20")  # SLURM may say so a minute earlier than asked
    leaves = slurm.launch(1, *short)
    leaving = slurm.job
    slurm.launch(1, *short, "--option", "at-limit=requeue")
    wait_until(lambda: slurm.restarts() == {slurm.job: 1}, 150, every=0.5, what="its task is queued again")
    wait_until(
        lambda: slurm.cluster.tasks(leaving)[leaving][0] == "COMPLETED",
        30,
        every=0.5,
        what="one leaves",
    )
    assert "told to leave" in slurm.hpo("launch", "logs", str(leaves)).out
    wait_until(lambda: resumed(slurm.lab), 60, every=0.2, what="a trial goes on")
    attempts = dict(slurm.lab.attempts())
    assert attempts == {"released": 2, "running": 1}, attempts
    slurm.hpo("launch", "stop", str(slurm.launched()["id"]))
    return (
        f"Time limit of two minutes, to be told 20 s before: one task left (exit status 0), the one with "
        f"at-limit=requeue was queued again and went on from step {resumed(slurm.lab)[0]}; "
        f"attempts then {attempts}, none lost"
    )
