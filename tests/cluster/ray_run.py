"""Searches on a real Ray cluster of a head and two nodes: a node dies, the head dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from storage.database.records import WorkerState
from storage.database.tables import worker
from tests.cluster.ray_cluster import RayCluster
from tests.cluster.seen import audit_line
from tests.faults.lab import Lab
from tests.support.command import HpoResult
from tests.support.pg import PASSWORD, PgServer
from tests.support.waiting import wait_until

CELLS, WORKERS = 200, 4
STEPS, STEP_SECONDS = 10, 0.1  # a second a cell
NODES = ("node1", "node2")


class RayLab:
    """One study whose workers are actors of a cluster."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.env.update(HPO_LEASE="5", HPO_GRACE="10")

    @contextmanager
    def running(self) -> Iterator[RayCluster]:
        """A cluster in which either node has room for every worker, and the head for none."""
        with RayCluster() as cluster:
            self.lab.env.update(cluster.environment)
            cluster.start("head", cpus=0, gpus=0)
            cluster.wait("head")
            for name in NODES:  # one after the other: two at once do not see each other's ports and files
                cluster.start(name, cpus=WORKERS, gpus=WORKERS // 2)
                cluster.wait(name)
            yield cluster

    def hpo(self, *words: str, timeout: float = 90) -> HpoResult:
        """Run an `hpo` command to its end."""
        return self.lab.start(*words).wait(timeout)

    def create(self) -> None:
        """A grid of trials that save a checkpoint after each step."""
        fixed = {"steps": STEPS, "step_seconds": STEP_SECONDS}
        self.lab.create(cells=CELLS, objective="objective.py:saving", fixed=fixed)

    def launch(self) -> None:
        """Start the workers with half a card each, and wait until all have joined."""
        before = self.joined()
        words = ("launch", "study", "--on", "ray", "--workers", str(WORKERS), "--gpus-per-worker", "0.5")
        self.hpo(*words, "--option", "env=JOURNAL").check()
        wait_until(lambda: self.joined() == before + WORKERS, 90, every=0.2, what="the workers join")

    def joined(self) -> int:
        """How many workers ever registered."""
        return len(self.worker_states())

    def worker_states(self) -> list[str]:
        """State of each worker that ever registered, oldest first."""
        query = sa.select(worker.c.state).order_by(worker.c.started_at)
        return self.lab.open().read(lambda connection: [str(state) for state in connection.scalars(query)])

    def launches(self) -> list[dict[str, Any]]:
        """What `hpo launches` lists."""
        found: list[dict[str, Any]] = self.hpo("launches", "--format", "json").check().json
        return found

    def done(self) -> int:
        """How many cells are complete."""
        return self.lab.states().get("complete", 0)


@contextmanager
def _laboratory(folder: Path, seed: int) -> Iterator[RayLab]:
    server = PgServer()
    lab = Lab(folder, server.start().create_database(), seed)
    try:
        yield RayLab(lab)
    finally:
        lab.close()
        server.close()


def node_killed(folder: Path, seed: int = 1) -> str:
    """One of two nodes dies with its workers; the others of the launch take their place on the other one."""
    with _laboratory(folder, seed) as ray, ray.running() as cluster:
        ray.create()
        began = time.monotonic()
        ray.launch()
        wait_until(lambda: ray.done() >= CELLS // 8, 120, every=0.2, what="some cells are done")
        died = len(cluster.workers("node1"))
        assert died == WORKERS // 2, "workers are spread over the nodes"

        at = time.monotonic()
        cluster.kill("node1")
        wait_until(lambda: len(cluster.workers("node2")) == WORKERS, 60, every=0.1, what="Ray starts others")
        started = time.monotonic() - at
        wait_until(lambda: ray.joined() >= WORKERS + died, 60, every=0.1, what="replacements join")
        replaced = time.monotonic() - at

        at = time.monotonic()
        cluster.workers("node2")[0].kill()
        wait_until(lambda: ray.joined() >= WORKERS + died + 1, 60, every=0.1, what="Ray starts it again")
        again = time.monotonic() - at

        ray.lab.wait_for_end(300)
        wait_until(lambda: not cluster.workers("node2"), 60, every=0.2, what="the workers leave")
        wall = time.monotonic() - began
        shown = ray.launches()
        assert PASSWORD not in json.dumps(shown)
        wait_until(lambda: ray.launches()[0]["state"] == "ended", 60, every=1, what="actors free their cards")
        assert ray.lab.completed_points() == list(range(CELLS))
        assert replaced < 30, f"replacements joined after {replaced:.1f} s"
        return (
            f"{WORKERS} workers with half a card each, {CELLS} cells, {wall:.0f} s; a node killed with "
            f"{died} workers, {died} others started on the other node after {started:.1f} s, at work after "
            f"{replaced:.1f} s; one killed alone was back after {again:.1f} s. "
            f"Attempts {dict(ray.lab.attempts())}. Audit: {audit_line(ray.lab)}"
        )


def head_killed(folder: Path, seed: int = 1) -> str:
    """The head dies, and with it the cluster; its workers drain, and a launch on a new one finishes."""
    with _laboratory(folder, seed) as ray:
        ray.create()
        with ray.running() as cluster:
            ray.launch()
            wait_until(lambda: ray.done() >= CELLS // 4, 120, every=0.2, what="some cells are done")
            at = time.monotonic()
            cluster.kill("head")
            workers = [process for name in NODES for process in cluster.workers(name)]
            told = ray.launches()[0]
            assert told["state"] == "unknown", told
            assert "cannot be reached" in told["workers"][0]["detail"], told
            assert ray.hpo("launch", "stop", "1").code == 1
            wait_until(
                lambda: not any(process.is_running() and process.status() != "zombie" for process in workers),
                90,
                every=0.2,
                what="the workers leave with their cluster",
            )
            drained = time.monotonic() - at
        assert set(ray.worker_states()) == {WorkerState.LEFT}, ray.worker_states()
        attempts = dict(ray.lab.attempts())
        assert not {"running", "lost"} & attempts.keys(), attempts
        before = ray.done()
        assert before < CELLS
        with ray.running():
            ray.launch()
            ray.lab.wait_for_end(300)
            wait_until(lambda: ray.launches()[1]["state"] == "ended", 60, every=1, what="actors end")
        ray.hpo("launch", "stop", "1", "--forget").check()
        assert [launch["state"] for launch in ray.launches()] == ["stopped", "unknown"]
        assert ray.lab.completed_points() == list(range(CELLS))
        return (
            f"the head killed after {before} of {CELLS} cells: its {len(workers)} workers drained and were "
            f"gone after {drained:.0f} s, {attempts.get('released', 0)} trials given back; a launch on a new "
            f"cluster finished. Attempts {dict(ray.lab.attempts())}. Audit: {audit_line(ray.lab)}"
        )
