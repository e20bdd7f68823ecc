"""A Pool whose processes are spawned."""

import multiprocessing


def square(x):
    return x * x


def objective(trial):
    x = trial.suggest_float("x", -3, 3)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return sum(pool.map(square, [x, x + 1]))
