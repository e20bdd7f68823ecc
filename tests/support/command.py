"""The real `hpo` command, in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import psutil
import pytest

from tests.support.forking import Forked, Forking
from tests.support.waiting import LONGEST, wait_until

_REAL = (sys.executable, "-m", "hpo")
COMMAND = _REAL
FORKED_FROM: list[Forking] = []  # of the tests' own process: where the commands it starts are forked from


@dataclass(frozen=True)
class HpoResult:
    """How a command ended: exit code, standard output, standard error."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output read as JSON. Raises json.JSONDecodeError when anything else is on it."""
        return json.loads(self.out)

    def check(self, code: int = 0) -> HpoResult:
        """This result, when the exit code is `code`; AssertionError with all the output otherwise."""
        assert self.code == code, f"hpo {' '.join(self.args)} ended with {self.code}, not {code}\n{self}"
        return self

    def __str__(self) -> str:
        return f"--- standard output\n{self.out}\n--- standard error\n{self.err}"


def run_hpo(
    *args: str | Path,
    cwd: Path,
    env: Mapping[str, str | None] | None = None,
    stdin: str | None = None,
    timeout: float = LONGEST,
) -> HpoResult:
    """Run `hpo ARGS` in `cwd` to its end; `env` adds variables, or removes one given as None.

    Raises AssertionError after `timeout` seconds, with what was printed; what it started is ended.
    """
    with HpoProcess(*args, cwd=cwd, env=env, stdin=stdin) as process:
        return process.wait(timeout)


def look(*args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> HpoResult:
    """`hpo ARGS` in this process, for tests of what other, real processes did or are to do.

    A process of its own takes a second to import what is already here.
    """
    from hpo.cli import run

    words = tuple(str(arg) for arg in args)
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
    ):
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        code = run(words)
    return HpoResult(words, int(code), out.getvalue(), err.getvalue())


def every_command(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its name; typer has click's classes, or some of its own that are like them."""
    import typer

    from hpo.cli.app import app

    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


class HpoProcess:
    """A running `hpo ARGS`; leaving its `with` block kills it and everything it started.

    `before` are words put before the command, which must run it: `ip netns exec NAME`. With `anew`
    it is started by itself, never forked.
    """

    def __init__(
        self,
        *args: str | Path,
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        stdin: str | None = None,
        before: Sequence[str] = (),
        anew: bool = False,
    ) -> None:
        self.args = tuple(str(arg) for arg in args)
        environment = hpo_environment(env)
        self._process: subprocess.Popen[str] | Forked
        if not (before or anew) and COMMAND == _REAL and FORKED_FROM and FORKED_FROM[-1].suits(environment):
            self._process = FORKED_FROM[-1].start(self.args, cwd, environment, with_input=stdin is not None)
        else:
            self._process = subprocess.Popen(
                [*before, *COMMAND, *self.args],
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # a signal meant for it never reaches the test run
            )
        self._output: dict[str, list[str]] = {"out": [], "err": []}
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self._process.stdout), ("err", self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()
        if stdin is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(stdin)
                self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def out(self) -> str:
        """Standard output so far."""
        return "".join(self._output["out"])

    @property
    def err(self) -> str:
        """Standard error so far."""
        return "".join(self._output["err"])

    def children(self, running: str = "") -> list[psutil.Process]:
        """Every living process below this one with `running` in its command line: `hpo.runner.process`."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return those_running(running, psutil.Process(self.pid).children(recursive=True))
        return []

    def signal(self, number: Signals) -> None:
        """Send a signal to the command itself, not to what it started."""
        if self.running:
            self._process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """Send a signal to the command and what shares its group, as a terminal does for Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, timeout: float = LONGEST) -> HpoResult:
        """Wait for the end. Raises AssertionError after `timeout` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"hpo {' '.join(self.args)} still runs after {timeout:g} s\n{self.out}\n{self.err}"
            ) from None
        for reader in self._readers:
            reader.join(30)  # a child that outlives the command may keep its pipe open
        return HpoResult(self.args, code, self.out, self.err)

    def wait_for(self, text: str, timeout: float = LONGEST) -> None:
        """Wait until `text` was printed. Raises AssertionError when the command ends without it."""

        def seen() -> bool:
            ended = not self.running
            if text in self.out + self.err:
                return True
            assert not ended, f"ended without printing {text!r}\n{self.out}\n{self.err}"
            return False

        wait_until(seen, timeout, what=f"hpo {' '.join(self.args)} prints {text!r}")

    def kill(self) -> None:
        """SIGKILL the command and everything it started."""
        family = self.children()
        if self.running:
            self._process.kill()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait(LONGEST)
        psutil.wait_procs(family, LONGEST)

    def __enter__(self) -> HpoProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for reader in self._readers:
            reader.join(5)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _read(self, name: str, stream: Any) -> None:
        with contextlib.suppress(ValueError):  # closed while reading
            for line in stream:
                self._output[name].append(line)


def those_running(words: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes in whose command line `words` stands; none that ends while it is looked at."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie's command line cannot be read, either
            if not words or words in " ".join(process.cmdline()):
                found.append(process)
    return found


def hpo_environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """This process's environment without the user's HPO_ variables, with `changes` (None removes one)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HPO_")}
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["PYTHONUNBUFFERED"] = "1"
    environment["COLUMNS"] = "200"
    environment["NO_COLOR"] = "1"
    for name, value in (changes or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment
