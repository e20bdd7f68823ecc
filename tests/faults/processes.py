"""Rows of the fault table about processes of one host: clocks that step, signals, what the dead leave."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from tests.faults.lab import STARVED, Lab
from tests.faults.rows import Scale


def wall_clock_step(lab: Lab, scale: Scale) -> str:
    """The wall clock steps by 3 s between two workers' starts: neither takes the other for dead."""
    lost, results = _beside_a_step(lab)
    assert lost == 0, lab.ended_why("lost")
    assert results == 6
    return f"{results}/6 trials, 0 lost"


def wall_clock_step_without_ticks(lab: Lab, scale: Scale) -> str:
    """Negative control: processes are told by their time of day, and bury each other."""
    lab.faults["off"] = ["start ticks"]
    lost, results = _beside_a_step(lab)
    assert lost > 0, "no worker was buried alive"
    return f"{lost} attempts lost, {results}/6 trials in time"


def _beside_a_step(lab: Lab) -> tuple[int, int]:
    """(attempts lost, results) of two workers, each with its own idea of when the machine started."""
    lab.env["HPO_LEASE"] = STARVED
    lab.create(trials=6, fixed={"steps": 10, "step_seconds": 0.2})
    lab.worker()
    lab.wait(lambda: lab.journal_lines("began"), "the first works")
    lab.faults["boot_step"] = 3.0
    lab.worker()
    lab.wait(lambda: lab.attempts().get("lost") or lab.ended(), "the study ends, or trials are lost")
    return lab.attempts().get("lost", 0), lab.audit().results


def told_all_at_once(lab: Lab, scale: Scale) -> str:
    """SIGTERM to a worker and all it started, as systemd stops a service: tickets are given back."""
    states, code = _signal_everybody(lab)
    assert code == 0
    assert set(states) == {"released"}, (states, lab.ended_why("lost"), lab.ended_why("failed"))
    return "1 ticket given back, 0 lost, 0 failed"


def told_all_without_handler(lab: Lab, scale: Scale) -> str:
    """Negative control: a runner that keeps its default handlers dies of the signal."""
    lab.faults["off"] = ["handlers"]
    states, _ = _signal_everybody(lab)
    assert states.get("lost"), f"the runner outlived SIGTERM: {states}"
    return f"attempts {states}"


def _signal_everybody(lab: Lab) -> tuple[dict[str, int], int]:
    lab.create(trials=1, objective="objective.py:with_child", fixed={"step_seconds": 60})
    worker = lab.worker()
    lab.wait(lambda: lab.journal_lines("child"), "the trial has a child")
    for process in [*worker.children(), psutil.Process(worker.pid)]:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    code = worker.wait().code
    return dict(lab.attempts()), code


def killed_with_child(lab: Lab, scale: Scale) -> str:
    """A killed worker's objective has a process of its own: it ends before the trial is tried again."""
    survivors = _kill_and_replace(lab)
    assert survivors == 0, "the first attempt's process runs beside the second"
    return "0 processes of the first attempt beside the second"


def killed_with_child_left(lab: Lab, scale: Scale) -> str:
    """Negative control: nobody looks for what the dead worker's runners started."""
    lab.faults["off"] = ["leftovers"]
    survivors = _kill_and_replace(lab)
    assert survivors == 1
    return "1 process of the first attempt beside the second"


def _kill_and_replace(lab: Lab) -> int:
    """How many processes of the first attempt run when the second has begun."""
    lab.create(trials=1, objective="objective.py:with_child", fixed={"step_seconds": 60})
    first = lab.worker()
    child = int(lab.wait(lambda: lab.journal_lines("child"), "the trial has a child")[0][-1])
    try:
        first.signal(signal.SIGKILL)
        lab.worker()
        lab.wait(lambda: len(lab.journal_lines("child")) > 1, "the second attempt has begun")
        with contextlib.suppress(psutil.NoSuchProcess):
            return int(psutil.Process(child).status() != psutil.STATUS_ZOMBIE)
        return 0
    finally:
        for line in lab.journal_lines("child"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line[-1]), signal.SIGKILL)
