"""User attributes of every plain kind, and what a trial says of itself."""


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("text", "grüße, 你好")
    trial.set_user_attr("nested", {"list": [1, 2.5, None], "deep": {"yes": True}})
    trial.set_user_attr("again", 1)
    trial.set_user_attr("again", 2)
    trial.set_user_attr("number", trial.number)
    trial.set_user_attr("seen", trial.user_attrs["nested"]["list"])
    trial.set_user_attr("params", trial.params)
    trial.set_user_attr("started", trial.datetime_start is not None)
    trial.set_user_attr("distributions", sorted(trial.distributions))
    return x
