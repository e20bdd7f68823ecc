"""Constraints that are set while the trial runs."""


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.set_constraint("large", 0.5 - x)
    trial.set_constraint("small", x - 0.9)
    return x
