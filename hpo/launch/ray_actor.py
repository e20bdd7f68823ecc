"""What runs on a Ray node: an actor that keeps one `hpo worker` beside itself for as long as both live."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import ExitCode
from hpo.launch.base import last_lines
from hpo.launch.follow import follow_parent

NAMESPACE = "hpo"  # of the actors' names, and of what they leave in the cluster's key-value store

_AGAIN = 10.0  # seconds until a worker that did not reach the database is started again
_KEPT_LINES = 500  # of a worker's output, when it has ended
_KEPT_CHARACTERS = 32_000


class WorkerActor:
    """Runs `hpo worker` in a process of its own, and leaves when that has ended.

    A worker that a signal ended (out of memory, killed by hand) takes its actor down with it, so that Ray
    starts both again, where there is room; one that ended by itself is not started again, whatever it said.

    Args:
        name: the actor's; what the worker ends with is kept under it.
        arguments: of `hpo`.
        environment: added to the node's; it holds the storage URL.
        code: working directory of the worker; None: where Ray put the code that was sent along.

    Raises:
        NotADirectoryError: the code is not on this node.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], code: str | None
    ) -> None:
        import ray

        self._name = name
        self._command = [sys.executable, "-P", "-m", "hpo.launch.follow", *arguments]
        self._environment = {**os.environ, **environment}
        self._code = Path(code) if code is not None else Path.cwd()
        if not self._code.is_dir():
            raise NotADirectoryError(f"{self._code} is not a directory of {os.uname().nodename}")
        self._me = ray.get_runtime_context().current_actor
        descriptor, output = tempfile.mkstemp(prefix="hpo-worker-", suffix=".log")
        os.close(descriptor)
        self._output = Path(output)
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving = threading.Event()
        threading.Thread(target=self._keep, name="worker", daemon=True).start()

    def report(self) -> str:
        """Where the worker is."""
        process, node = self._process, os.uname().nodename
        if process is None or process.poll() is not None:
            return f"on {node}, which does not reach the database; tries again"
        return f"on {node}"

    def logs(self, lines: int) -> str:
        """The last lines of what the worker printed."""
        return last_lines(self._output, lines)

    def leave(self) -> None:
        """Tell the worker to give its tickets back and leave; the actor follows it."""
        self._leaving.set()
        if self._process is not None:
            self._process.terminate()

    def _keep(self) -> None:
        """Start the worker, wait for its end, leave word of it, end the actor."""
        status = self._run_worker()
        while status == ExitCode.NO_DATABASE and not self._leaving.wait(_AGAIN):
            status = self._run_worker()
        if status < 0 and not self._leaving.is_set():
            os._exit(1)  # Ray starts the actor again
        with contextlib.suppress(Exception):  # whoever looks later sees an actor that is gone
            self._leave_word(status)
        self._output.unlink(missing_ok=True)
        _end_for_good(self._me)

    def _run_worker(self) -> int:
        """Exit status of one run of the worker; negative: the signal that ended it."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- our own command
                self._command,
                cwd=self._code,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=follow_parent(),
            )
        if self._leaving.is_set():  # told while it was being started
            self._process.terminate()
        return self._process.wait()

    def _leave_word(self, status: int) -> None:
        from ray.experimental import internal_kv

        word = {"status": status, "output": self.logs(_KEPT_LINES)[-_KEPT_CHARACTERS:]}
        internal_kv._internal_kv_put(self._name, json.dumps(word), namespace=NAMESPACE)


def last_word(name: str) -> dict[str, Any] | None:
    """The exit status and last output that an actor of this name left; None: it left none."""
    from ray.experimental import internal_kv

    found: Any = internal_kv._internal_kv_get(name, namespace=NAMESPACE)
    return None if found is None else dict(json.loads(found))


def _end_for_good(actor: Any) -> None:
    """End this very actor; Ray does not start it again."""
    import ray

    while True:  # until Ray has ended this process
        with contextlib.suppress(Exception):  # the cluster does not answer; it may
            ray.kill(actor, no_restart=True)
        time.sleep(1.0)
