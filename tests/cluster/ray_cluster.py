"""A Ray cluster of this machine alone: each node has a loopback address, and dies with all it runs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support.ports import free_port
from tests.support.waiting import wait_until

_STARTED = "This command will now block forever"
_ALONE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # that a node outlives its head by, instead of 60


def ray_missing() -> str | None:
    """Why there can be no cluster here; None when there can."""
    return None if importlib.util.find_spec("ray") else "ray is not installed: pip install 'hpo[ray]'"


class RayCluster:
    """Nodes started with `ray start`, protected by a token. Leaving the `with` block kills them all."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hpo-ray-"))  # short: sockets are kept in it
        self.token = secrets.token_hex(32)
        self.port = free_port()
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._nodes):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"127.0.0.2:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to reach the cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ADDRESS": self.address}

    def start(self, name: str, *, cpus: int, gpus: int) -> None:
        """Begin to start a node; the first one is the head. `wait` waits for it."""
        number = len(self._nodes) + 2
        role = ["--address", self.address] if self._nodes else ["--head", "--port", str(self.port)]
        if not self._nodes:
            role += ["--include-dashboard=false", "--ray-client-server-port", str(free_port())]
            role += ["--temp-dir", str(self.folder / "ray")]
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        role += [f"--{port}={free_port()}" for port in ports]
        environment = {**_clean(os.environ), **self.environment, **_ALONE}
        if self._nodes:
            del environment["RAY_ADDRESS"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self._nodes[name] = subprocess.Popen(
                [
                    *(
                        str(Path(sys.executable).with_name("ray")),
                        "start",
                        "--block",
                        "--disable-usage-stats",
                    ),
                    *("--node-ip-address", f"127.0.0.{number}", *role),
                    *("--num-cpus", str(cpus), "--num-gpus", str(gpus), "--object-store-memory", "80000000"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def wait(self, name: str, timeout: float = 120) -> None:
        """Until a node has started."""

        def there() -> bool:
            said = (self.folder / f"{name}.log").read_text(errors="replace")
            assert self._nodes[name].poll() is None, f"Ray's {name} ended:\n{said}"
            return _STARTED in said

        wait_until(there, timeout, every=0.2, what=f"Ray's {name} starts")

    def processes(self, name: str) -> list[psutil.Process]:
        """Every process of a node, what its actors started too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self._nodes[name].pid)
            return [*main.children(recursive=True), main]
        return []

    def workers(self, name: str) -> list[psutil.Process]:
        """The `hpo worker` processes of a node."""
        found = []
        for process in self.processes(name):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "hpo" in words and "worker" in words:
                    found.append(process)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL a node and everything on it, at one blow."""
        family = self.processes(name)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        for process in [*self.processes(name), *family]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._nodes.pop(name).wait(10)
        psutil.wait_procs(family, 10)

    def ended(self, name: str) -> bool:
        """Whether a node has ended by itself."""
        return self._nodes[name].poll() is not None


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(("HPO_", "RAY_", "PG"))}
