"""Two results of a trial, the second one from a tuple of NumPy numbers."""

import numpy as np


def objective(trial):
    x = trial.suggest_float("x", 0, 5)
    y = trial.suggest_float("y", 0, 3)
    return np.array([4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2]).tolist()
