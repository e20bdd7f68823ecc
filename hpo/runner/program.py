"""A running program: heard line by line, and ended with all that it started.

It says how it fares in lines of JSON on its standard output: `{"step": 3, "value": 0.91, "loss": 0.4}` after
an epoch, `{"result": 0.93}` at the end. Everything else that it prints goes to the trial's log.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna

from hpo.runner.processes import signal_name
from hpo.runner.program_files import packed, within
from hpo.runner.values import ProgramError, ProgramKilledError
from objectives.protocol import Trial
from storage.database.errors import ArtifactError, ArtifactsAwayError

TICK = 0.2  # seconds between looks at whether the trial must stop
ENDS_WITHIN = 4.0  # seconds from SIGTERM to SIGKILL; less than what a runner has when its lease is lost
LONGEST_LINE = 1_000_000  # bytes; a longer one is no report
_LAST_WORDS = 4000  # bytes: the last that a program wrote to standard error, told with its end
_PIECE = 64 * 1024  # bytes read at once
_KEYS = frozenset({"step", "value", "result", "checkpoint", "artifact"})


class Run:
    """One running program."""

    def __init__(
        self, trial: Trial, process: subprocess.Popen[bytes], directory: Path, folder: Path, directions: int
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._trial = trial
        self._process = process
        self._directory = directory
        self._folder = folder
        self._directions = directions
        self._waiting = selectors.DefaultSelector()
        self._output, self._errors = process.stdout.fileno(), process.stderr.fileno()
        for stream in (self._output, self._errors):
            os.set_blocking(stream, False)
            self._waiting.register(stream, selectors.EVENT_READ)
        self._pidfd = None
        with suppress(OSError, AttributeError):  # Linux; elsewhere its end is seen at a tick
            self._pidfd = os.pidfd_open(process.pid)
            self._waiting.register(self._pidfd, selectors.EVENT_READ)
        self._line = bytearray()  # what has come of a line
        self._is_too_long = False
        self._lines = 0  # printed so far
        self._oddity = ""  # a line that was meant as a report, maybe
        self._last_error = bytearray()
        self._checkpoints: set[Path] = set()  # named so far
        self._result: Any = None

    def result(self) -> Any:
        """Hear it to its end.

        Raises:
            ProgramError: it failed, or what it said cannot be used.
        """
        while not self._has_ended():
            for key, _ in self._waiting.select(TICK):
                self._read(key.fd)
            self._trial.check()
        self._kill(signal.SIGKILL)  # what it left in the background ends with it
        until = time.monotonic() + TICK  # for somebody else may hold its output open
        while self._waiting.get_map().keys() - {self._pidfd} and time.monotonic() < until:
            for key, _ in self._waiting.select(0):
                self._read(key.fd)
        if self._line:
            self._heed_line()
        self._demand_success()
        if self._result is None:
            self._result = self._last_report()
        return self._result

    def end(self) -> None:
        """Have it end, if it still runs: SIGTERM to its group, then SIGKILL."""
        if self._process.returncode is None:
            self._kill(signal.SIGTERM)
            until = time.monotonic() + ENDS_WITHIN
            while not self._has_ended() and time.monotonic() < until:
                for key, _ in self._waiting.select(TICK):
                    self._log(key.fd)
            self._kill(signal.SIGKILL)
            self._process.wait()
        self._waiting.close()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    # Its processes

    def _has_ended(self) -> bool:
        """Whether the program itself has: what it started may still run, and its id is its own still."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _kill(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _demand_success(self) -> None:
        status = self._process.wait()
        if status == 0:
            return
        last = self._last_error.decode(errors="replace").strip()
        words = f": {last.splitlines()[-1].strip()}" if last else ", and wrote nothing to standard error"
        before = f"{last}\n" if "\n" in last else ""  # the last line of an error is what lists show
        if status > 0:
            raise ProgramError(f"{before}the program exited with status {status}{words}")
        name = signal_name(-status)
        if -status in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
            raise ProgramKilledError(f"{before}the program was killed by {name}{words}")
        raise ProgramError(f"{before}the program died by {name}{words}")

    # What it says

    def _read(self, stream: int) -> None:
        """Take what has come of one of its streams."""
        content = self._taken(stream)
        if stream == self._errors:
            self._last_error = (self._last_error + content)[-_LAST_WORDS:]
            _write(2, content)
            return
        *whole, rest = content.split(b"\n")
        for line in whole:
            self._line += line
            self._heed_line()
        self._line += rest
        if len(self._line) > LONGEST_LINE:
            self._is_too_long = True
            self._oddity = f"a line of more than {LONGEST_LINE:,} bytes is not read as a report"
            _write(1, bytes(self._line))
            self._line.clear()

    def _log(self, stream: int) -> None:
        """What it says when it is told to end is for the log alone."""
        _write(1 if stream == self._output else 2, self._taken(stream))

    def _taken(self, stream: int) -> bytes:
        if stream == self._pidfd:
            self._waiting.unregister(stream)
            return b""
        try:
            content = os.read(stream, _PIECE)
        except BlockingIOError:
            return b""
        if not content:
            self._waiting.unregister(stream)
        return content

    def _heed_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._is_too_long or not line:
            self._is_too_long = False
            _write(1, line + b"\n")
            return
        self._lines += 1
        said = self._report_in(line)
        if said is None:
            _write(1, line + b"\n")
        else:
            self._heed(said, line)

    def _report_in(self, line: bytes) -> dict[str, Any] | None:
        """The report that a line holds; None: it is for the log."""
        text = line.rstrip().rpartition(b"\r")[2].strip()  # after a progress bar
        if not text.startswith(b"{"):
            return None
        try:
            said = json.loads(text.decode())
        except (ValueError, RecursionError):
            self._oddity = f"its line {shown(text)} looks like a report, but is no JSON in UTF-8"
            return None
        return said if _KEYS & said.keys() else None

    def _heed(self, said: Mapping[str, Any], line: bytes) -> None:
        """Pass a report on.

        Raises:
            ProgramError: it cannot be one.
        """
        try:
            step = _step(said)
            metrics = {
                name: float(value) for name, value in said.items() if name not in _KEYS and _is_number(value)
            }
            if step is not None and metrics:
                self._trial.log(step, **metrics)
            if len(metrics) < len(said.keys() - _KEYS):
                _write(1, line + b"\n")  # what no chart can show can be read there
            if "artifact" in said:
                self._trial.artifact(self._folder / str(said["artifact"]))
            if "result" in said:
                self._result = _values("result", said["result"], self._directions)
            if "value" in said:
                self._result = _values("value", said["value"], self._directions)
                if step is not None:
                    self._trial.report(self._result, step)
            if "checkpoint" in said:
                self._heed_checkpoint(said["checkpoint"], step)
        except ArtifactsAwayError:
            raise
        except (ProgramError, ArtifactError, OSError) as error:
            what = "" if isinstance(error, ProgramError) else "names what cannot be kept: "
            raise ProgramError(
                f"the program's line {self._lines}, {shown(line)}, {what}{why(error)}"
            ) from error
        if "value" in said and step is not None and self._trial.should_prune():
            raise optuna.TrialPruned

    def _heed_checkpoint(self, name: Any, step: int | None) -> None:
        """Take what it has put into its directory. It may be far ahead of what is read of it here, so what it
        writes next must not be what was named before."""
        if step is None:
            raise ProgramError("has a checkpoint without its step")
        place = within(self._directory, name)
        if place in self._checkpoints:
            raise ProgramError("names a checkpoint again: each needs a name of its own, such as state-12.pt")
        self._checkpoints.add(place)
        self._trial.checkpoint.save(packed(self._directory, place), step)
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink()

    def _last_report(self) -> float:
        """What an earlier attempt reported last, where this one had nothing left to do.

        Raises:
            ProgramError: nothing was reported at all.
        """
        reports: Mapping[int, float] = getattr(self._trial, "reports", {})
        if reports:
            return reports[max(reports)]
        wanted = '{"result": 0.93}' if self._directions == 1 else '{"result": [0.93, 12.5]}'
        printed = f"it printed {self._lines} other lines" if self._lines else "it printed nothing"
        raise ProgramError(
            f"the program ended well and reported no result: {self._oddity or printed}. It must print a line "
            f"{wanted} to its standard output (in Python: print(json.dumps(...), flush=True))"
        )


def _step(said: Mapping[str, Any]) -> int | None:
    if "step" not in said:
        return None
    step = said["step"]
    if not _is_number(step) or not 0 <= step < 1e9 or step != int(step):
        raise ProgramError(f"has the step {_told(step)}; a step is a whole number from 0")
    return int(step)


def _values(what: str, value: Any, directions: int) -> float | tuple[float, ...]:
    """One number, or as many as there are directions."""
    values = value if isinstance(value, list) else [value]
    if len(values) != directions:
        raise ProgramError(
            f"has {len(values)} {what}s; the study has {directions} direction{'s' if directions > 1 else ''}"
        )
    for one in values:
        if not _is_number(one):
            hint = "; a training that exploded says NaN" if one is None else ""
            raise ProgramError(f"has the {what} {_told(one)}, which is no number{hint}")
    numbers = tuple(map(float, values))
    return numbers if directions > 1 else numbers[0]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 10**300


def _told(value: Any) -> str:
    return shown(json.dumps(value).encode())


def shown(text: bytes) -> str:
    readable = text.strip().decode(errors="replace")
    readable = "".join(c if c.isprintable() else " " for c in readable)
    return readable if len(readable) <= 100 else f"{readable[:97]}..."


def why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return str(error)


def _write(descriptor: int, content: bytes) -> None:
    """To the trial's log, which is where this process's own output goes while the trial runs."""
    while content:
        content = content[os.write(descriptor, content) :]
