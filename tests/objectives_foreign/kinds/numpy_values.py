"""NumPy's numbers as result, report and attributes."""

import numpy as np


def objective(trial):
    x = np.float64(trial.suggest_float("x", 0.0, 1.0))
    trial.set_user_attr("square", (x**2).item())
    trial.set_user_attr("row", np.arange(3).tolist())
    trial.report(np.float32(0.5), np.int64(1))
    return np.square(x)
