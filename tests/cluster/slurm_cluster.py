"""A real SLURM on this machine: one controller and nodes that can be killed as a power cut kills them.

Each node is a `slurmd` in a pid and host name namespace of its own: one SIGKILL to the first process of that
namespace ends everything that runs on the node, and nothing else. Nothing listens beyond the loopback, and
`stop` removes every process and file.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.pg import die_with_parent
from tests.support.ports import free_port
from tests.support.skips import NO_ROOT, NO_SLURM
from tests.support.waiting import wait_until

_NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged", "unshare")
CPUS, GPUS = 4, 2  # of each node; invented, the machine may have fewer
REQUEUE_DELAY = 5  # seconds before a requeued task may start again; SLURM's own default is 120

# `low` can be preempted by `high`, with a grace period in which its tasks are told to leave.
_CONFIGURATION = """
ClusterName=hpo-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_delay}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout={node_timeout}
KillWait=10
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace} State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


class NoSlurmError(RuntimeError):
    """This machine has no SLURM, or it cannot run here."""


class SlurmCluster:
    """`with SlurmCluster() as cluster:` partitions `low` and `high` over the nodes, ready for `sbatch`.

    Args:
        nodes: their names; each has 4 CPUs and 2 "GPUs".
        grace: seconds that a preempted task of `low` is given.
        node_timeout: seconds until a silent node counts as down.

    Raises:
        NoSlurmError: a binary is missing, this is not root, or a daemon ends at its start.
    """

    def __init__(
        self, nodes: Sequence[str] = ("node1", "node2"), *, grace: int = 30, node_timeout: int = 10
    ) -> None:
        missing = [name for name in _NEEDED if shutil.which(name) is None]
        if missing:
            raise NoSlurmError(f"{NO_SLURM} ({', '.join(missing)})")
        if os.geteuid() != 0:
            raise NoSlurmError(f"SLURM here {NO_ROOT}: for its daemons, and for a namespace of each node")
        self.nodes = tuple(nodes)
        self.folder = Path(tempfile.mkdtemp(prefix="hpo-slurm-"))
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._configure(grace, node_timeout)

    def __enter__(self) -> SlurmCluster:
        try:
            self._start("munged", *self._munged())
            wait_until(lambda: self._alive("munged") and self._munge_socket.exists(), what="munged listens")
            self._start("slurmctld", "slurmctld", "-D", "-i")
            for node in self.nodes:
                self.start_node(node)
            wait_until(self._all_idle, 40, every=0.2, what="every node is idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- using it

    @property
    def environment(self) -> dict[str, str]:
        """What a client command needs to find this SLURM."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str) -> str:
        """Run one of SLURM's commands; returns what it printed. Raises AssertionError when it fails."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def tasks(self, job: str) -> dict[str, tuple[str, str]]:
        """State and node of each task of a job that SLURM still shows, by its id (`12_0`)."""
        lines = self.command("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i|%T|%N").splitlines()
        fields = [line.split("|") for line in lines]
        return {name: (state, node) for name, state, node in fields}

    def occupy(self, node: str, seconds: int) -> str:
        """Take a whole node for the `high` partition, so that `low` must leave it; returns the job's id."""
        said = self.command(
            *("sbatch", "--partition=high", "--exclusive", f"--nodelist={node}", "--output=/dev/null"),
            f"--wrap=sleep {seconds}",
        )
        found = re.search(r"\d+", said)
        assert found is not None, said
        return found.group()

    # -- the life of a node

    def start_node(self, node: str) -> None:
        """Start a node; it registers with the controller by itself."""
        self._start(
            node,
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"),
            *("sh", "-ec", f"hostname {node}; mount --bind hosts /etc/hosts; exec slurmd -D -N {node}"),
        )

    def kill_node(self, node: str) -> None:
        """SIGKILL the node's slurmd and, with its namespace, every process of its jobs, at once."""
        process = self._started.pop(node)
        process.kill()
        process.wait(10)

    def stop(self) -> None:
        """End every process and remove every file."""
        for name in reversed(list(self._started)):
            process = self._started.pop(name)
            process.send_signal(signal.SIGKILL if name in self.nodes else signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, name: str, lines: int = 20) -> str:
        """The end of a daemon's log."""
        with contextlib.suppress(OSError):
            text = (self.folder / f"{name}.log").read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    # -- inside

    @property
    def _munge_socket(self) -> Path:
        return self.folder / "munge.socket"

    def _munged(self) -> list[str]:
        files = {"key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / file}" for option, file in files.items()]
        log = f"--log-file={self.folder / 'munged.log'}"
        return ["munged", "--foreground", "--force", f"--socket={self._munge_socket}", *options, log]

    def _configure(self, grace: int, node_timeout: int) -> None:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        for name in ("state", *self.nodes):
            (self.folder / name).mkdir()
        nodes = [
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()} "
            f"CPUs={CPUS} RealMemory=1000 Gres=gpu:{GPUS}"
            for name in self.nodes
        ]
        text = _CONFIGURATION.format(
            folder=self.folder,
            controller_port=free_port(),
            nodes="\n".join(nodes),
            grace=grace,
            requeue_delay=REQUEUE_DELAY,
            node_timeout=node_timeout,
        )
        (self.folder / "slurm.conf").write_text(text)
        devices = "".join(
            f"NodeName={name} Name=gpu File={self.folder}/card[0-{GPUS - 1}]\n" for name in self.nodes
        )
        (self.folder / "gres.conf").write_text(devices)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(self.nodes)}\n")
        for card in range(GPUS):  # a "GPU" is a device file that exists
            (self.folder / f"card{card}").symlink_to("/dev/null")

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._started[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**_daemon_environment(), **self.environment},
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def _alive(self, name: str) -> bool:
        process = self._started[name]
        if process.poll() is not None:
            output = (self.folder / f"{name}.out").read_text(errors="replace")[-2000:]
            raise NoSlurmError(f"{name} ended at its start:\n{output}")
        return True

    def _all_idle(self) -> bool:
        for name in self._started:
            self._alive(name)
        with contextlib.suppress(AssertionError):
            states = self.command("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split()
            return states == ["idle"] * len(self.nodes)
        return False


def _daemon_environment() -> dict[str, str]:
    """No variable of the caller's reaches a job by way of a daemon."""
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
