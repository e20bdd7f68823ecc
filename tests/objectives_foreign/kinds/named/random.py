"""A file named like a module of the standard library, which joblib's processes must find again."""

from joblib import Parallel, delayed


def half(x):
    return x / 2


def objective(trial):
    import random

    x = trial.suggest_float("x", -3, 3)
    assert random.Random(0).random() > 0, "the standard library's is still there"
    return sum(Parallel(n_jobs=2)(delayed(half)(x) for _ in range(2)))
