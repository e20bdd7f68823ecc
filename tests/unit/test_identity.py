"""Who a process is: told by its pid and when it started, whatever becomes of the clocks."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from hpo.worker.identity import is_alive, process_started

linux = pytest.mark.skipif(sys.platform != "linux", reason="start ticks are Linux's")


@linux
@pytest.mark.parametrize("step", [3.0, -3.0, 86_400.0])
def test_a_step_of_the_wall_clock_makes_no_process_look_dead(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows a time of boot that moves with the wall clock, and psutil adds to it."""
    pid = os.getpid()
    before = process_started(pid)
    assert before is not None
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.BOOT_TIME", None, raising=False)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + step)
    assert is_alive(pid, before)


def test_a_reused_pid_is_another_process() -> None:
    started = process_started(os.getpid())
    assert started is not None
    assert not is_alive(os.getpid(), started + 1)


def test_a_process_that_has_ended_is_gone_even_before_its_parent_asks() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = process_started(process.pid)
        assert started is not None
        assert is_alive(process.pid, started)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(process.pid, started)
    assert process_started(process.pid) is None


@linux
def test_any_name_of_a_process_is_read() -> None:
    code = "import ctypes,sys; ctypes.CDLL(None).prctl(15, b') R 1 (x'); print('ready',flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = process_started(process.pid)
        mine = process_started(os.getpid())
        assert started is not None
        assert mine is not None
        assert started >= mine
        process.kill()
