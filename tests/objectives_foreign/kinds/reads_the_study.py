"""Looks at the study: its trials, their states and its best value so far."""

import optuna


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    finished = trial.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if finished:
        assert trial.study.best_value <= min(other.value for other in finished)  # others finish meanwhile
    trial.set_user_attr("direction", trial.study.direction.name)
    trial.set_user_attr("own", any(other.number == trial.number for other in trial.study.trials))
    return x
