"""One of several models, each with parameters of its own; a parameter asked for twice."""


def objective(trial):
    model = trial.suggest_categorical("model", ["forest", "ridge", None])
    if model == "forest":
        return trial.suggest_int("depth", 2, 10, step=2) + trial.suggest_int("depth", 2, 10, step=2)
    if model == "ridge":
        return trial.suggest_float("alpha", 1e-5, 1.0, log=True)
    return 50.0
