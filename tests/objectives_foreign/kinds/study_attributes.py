"""Sets attributes of its study and reads them."""


def objective(trial):
    trial.study.set_user_attr("dataset", "iris")
    x = trial.suggest_float("x", 0, 1)
    return x + len(trial.study.user_attrs["dataset"])
