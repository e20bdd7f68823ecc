"""Returns infinity where a setting is out of the question."""


def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    return float("inf") if x < 0 else x
