"""Machines as network namespaces on a bridge, with a PostgreSQL between them: attach, cut, return."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from storage.database.records import AttemptState
from storage.database.tables import worker
from tests.cluster.seen import audit_line, checkpoint_on, resumed, trials_on
from tests.faults.lab import Lab
from tests.support.command import HpoProcess
from tests.support.pg import PgServer
from tests.support.skips import NO_NAMESPACES, NO_ROOT


class NoNamespacesError(RuntimeError):
    """This machine gives no network namespaces."""


class Machines:
    """Named machines on one network, and this one, which has its first address.

    Each has network, process ids and host name of its own. Leaving the `with` block removes them all; what
    still runs on them must have been ended before.

    Raises:
        NoNamespacesError: `ip` or `unshare` is missing, or the kernel refuses.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._tag = f"hpo{secrets.token_hex(2)}"  # a device's name has at most 15 characters
        self._subnet = f"10.213.{random.randint(1, 254)}"
        self.address = f"{self._subnet}.1"

    def __enter__(self) -> Machines:
        if os.geteuid() != 0:
            raise NoNamespacesError(f"a network namespace {NO_ROOT}")
        if missing := [name for name in ("ip", "unshare") if shutil.which(name) is None]:
            raise NoNamespacesError(f"no {' and no '.join(missing)} on this machine")
        try:
            self._ip("link", "add", self._tag, "type", "bridge")
            self._ip("address", "add", f"{self.address}/24", "dev", self._tag)
            self._ip("link", "set", self._tag, "up")
            for number, name in enumerate(self.names, start=2):
                self._add(name, f"{self._subnet}.{number}/24")
        except NoNamespacesError:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def network(self) -> str:
        """This machine's address there, with the network's size."""
        return f"{self.address}/24"

    def on(self, name: str) -> list[str]:
        """The words to put before a command that is to run on a machine."""
        return [
            *("ip", "netns", "exec", self._space(name)),
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"),
            *("sh", "-c", f'hostname {name} && exec "$@"', "sh"),
        ]

    def cut(self, name: str) -> None:
        """Pull the machine's cable: packets vanish both ways, and nobody is told."""
        self._ip("link", "set", self._cable(name), "down")

    def heal(self, name: str) -> None:
        """Put the cable back."""
        self._ip("link", "set", self._cable(name), "up")

    def remove(self) -> None:
        """Remove every namespace and device made here."""
        for name in self.names:
            with suppress(NoNamespacesError):
                self._ip("netns", "delete", self._space(name))  # its end of the cable goes with it
            with suppress(NoNamespacesError):
                self._ip("link", "delete", self._cable(name))  # gone already, unless a process lingers
        with suppress(NoNamespacesError):
            self._ip("link", "delete", self._tag)

    def _add(self, name: str, address: str) -> None:
        space, cable = self._space(name), self._cable(name)
        self._ip("netns", "add", space)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip("link", "set", cable, "master", self._tag, "up")
        self._ip("-n", space, "address", "add", address, "dev", "eth0")
        self._ip("-n", space, "link", "set", "eth0", "up")
        self._ip("-n", space, "link", "set", "lo", "up")

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _cable(self, name: str) -> str:
        return f"{self._tag}{name}"

    def _ip(self, *words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            why = f"{NO_NAMESPACES}: " if "not permitted" in done.stderr else ""
            raise NoNamespacesError(f"{why}ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Scale:
    """How long the search is, and on how many machines."""

    machines: tuple[str, ...]
    cells: int
    steps: int
    step_seconds: float
    cut: float  # seconds that the cable is out; more until another machine goes on with the trial


LONG = Scale(("m1", "m2", "m3"), cells=120, steps=20, step_seconds=0.1, cut=15.0)
SHORT = Scale(("m1", "m2"), cells=8, steps=25, step_seconds=0.1, cut=0.0)


@contextmanager
def a_lab(folder: Path, names: Sequence[str], seed: int = 1) -> Iterator[tuple[Lab, Machines]]:
    """Machines, and a lab whose database they reach over the network alone."""
    with Machines(names) as machines:
        server = PgServer(machines.network)
        try:
            direct = server.start().create_database()
            url = make_url(direct).set(host=machines.address).render_as_string(hide_password=False)
            lab = Lab(folder, url, seed, direct_url=direct)
            try:
                yield lab, machines
            finally:
                lab.close()
        finally:
            server.close()


def attach(lab: Lab, machines: Machines, *names: str) -> list[HpoProcess]:
    """Start a worker on each machine and wait until they run trials."""
    started = [
        HpoProcess(
            *("worker", "study", "--gpus", "none", "--quiet", "--runners", "1"),
            cwd=lab.folder,
            env=lab.environment(),
            before=machines.on(name),
        )
        for name in names
    ]
    lab.workers += started
    for name in names:
        lab.wait(lambda name=name: trials_on(lab, name), f"{name} runs a trial")
    return started


def cut_and_return(lab: Lab, machines: Machines, scale: Scale) -> str:
    """Attach, cut one machine past its lease, let it return; returns the figures."""
    since = time.monotonic()
    lab.create(
        cells=scale.cells,
        objective="objective.py:saving",
        fixed={"steps": scale.steps, "step_seconds": scale.step_seconds},
    )
    first = attach(lab, machines, *scale.machines[:2])[0]
    attach(lab, machines, *scale.machines[2:])
    attached = time.monotonic() - since

    lab.wait(lambda: checkpoint_on(lab, "m1"), "m1 saves a checkpoint")
    machines.cut("m1")
    cut_at = time.monotonic()
    lab.wait(lambda: trials_on(lab, "m1", AttemptState.LOST), "the others take its trial back")
    taken = time.monotonic() - cut_at
    lab.wait(lambda: resumed(lab), "one of them goes on from its checkpoint")
    while time.monotonic() < cut_at + scale.cut:
        time.sleep(0.1)
    done = trials_on(lab, "m1", AttemptState.COMPLETE)
    assert first.running
    (lab.folder / "hold").touch()  # so that work is left when it is back
    machines.heal("m1")
    healed_at = time.monotonic()
    lab.wait(
        lambda: trials_on(lab, "m1") or trials_on(lab, "m1", AttemptState.COMPLETE) != done,
        "the machine that was cut carries on",
    )
    returned = time.monotonic() - healed_at
    (lab.folder / "hold").unlink()

    lab.wait_for_end(300)
    wall = time.monotonic() - since
    assert first.wait().code == 0, first.err
    lab.wait(lambda: not any(process.running for process in lab.workers), "every worker leaves")
    assert workers_of(lab, "m1") == 1, "it should be the same worker that carries on"
    found = lab.audit()
    assert found.holds, found
    assert (found.results, found.duplicates) == (scale.cells, 0), (found, lab.ended_why("failed"))
    assert lab.completed_points() == list(range(scale.cells))
    completed = {name: len(trials_on(lab, name, AttemptState.COMPLETE)) for name in machines.names}
    return (
        f"{len(scale.machines)} machines, attached within {attached:.0f} s; {scale.cells} cells of "
        f"{scale.steps} steps, {wall:.0f} s. m1 cut off for {healed_at - cut_at:.0f} s, the lease being "
        f"{lab.env['HPO_LEASE']} s: its trial was taken back after {taken:.1f} s and went on elsewhere from "
        f"step {resumed(lab)[0]}; m1 was back at work {returned:.1f} s after its return, as the same worker. "
        f"Completed: {completed}. Attempts {dict(lab.attempts())}. Audit: {audit_line(lab)}"
    )


def workers_of(lab: Lab, host: str) -> int:
    """How many workers a machine ever registered."""
    query = sa.select(sa.func.count()).where(worker.c.host == host)
    return int(lab.open().read(lambda connection: connection.scalar(query) or 0))


def run_namespaces(folder: Path, seed: int = 1, scale: Scale = LONG) -> str:
    """The whole of it; returns the figures in a paragraph."""
    with a_lab(folder, scale.machines, seed) as (lab, machines):
        return cut_and_return(lab, machines, scale)
