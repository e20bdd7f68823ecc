"""Pickles an object of the file's own class and reads it again in another interpreter."""

import pickle
import subprocess
import sys
from pathlib import Path


class Fitted:
    def __init__(self, x):
        self.x = x


def objective(trial):
    content = pickle.dumps(Fitted(trial.suggest_float("x", 0, 1)))
    assert str(Path(__file__).parent).encode() not in content, "it would not load on another machine"
    read = "import pickle, sys; print(pickle.load(sys.stdin.buffer).x)"
    done = subprocess.run(
        [sys.executable, "-c", read],
        input=content,
        capture_output=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return float(done.stdout)
