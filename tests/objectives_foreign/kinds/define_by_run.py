"""Names that are made in a loop, as many as an earlier parameter says."""


def objective(trial):
    layers = trial.suggest_int("layers", 1, 4)
    units = [trial.suggest_int(f"units_{layer}", 4, 64, log=True) for layer in range(layers)]
    return sum(units) / len(units)
