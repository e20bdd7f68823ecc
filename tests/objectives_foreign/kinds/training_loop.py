"""Reports an epoch at a time and leaves when the pruner says so."""

import optuna


def objective(trial):
    rate = trial.suggest_float("rate", 0.0, 1.0)
    for epoch in range(10):
        trial.report(rate * epoch, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"at epoch {epoch}")
    return rate
