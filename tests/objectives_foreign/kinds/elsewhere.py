"""Works in a directory of its own, with an alarm, and leaves the directory behind."""

import os
import signal
import tempfile
from pathlib import Path


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    os.chdir(tempfile.mkdtemp())
    rang = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)  # again and again: the first may come before the pause
    signal.pause()
    signal.setitimer(signal.ITIMER_REAL, 0)
    Path("result.txt").write_text(repr(x))
    return float(Path("result.txt").read_text()) + bool(rang)
