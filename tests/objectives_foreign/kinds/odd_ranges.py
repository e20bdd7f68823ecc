"""Steps, single values, negative zero, choices of several types, names with spaces, slashes and dots."""

import numpy as np


def objective(trial):
    step = trial.suggest_float("a float/with.dots and spaces", -1.0, 1.0, step=0.25)
    one = trial.suggest_int("only one", 3, 3)
    mixed = trial.suggest_categorical("mixed", [True, 0, "0", None, 1.5])
    number = trial.suggest_categorical("numpy choices", np.array([16, 32, 64]).tolist())
    return step + one + number + len(repr(mixed))
