"""A Pool of forked processes, and an initializer that sets what is global."""

import multiprocessing

scale = None


def set_scale(value):
    global scale
    scale = value


def scaled(x):
    return x * scale


def objective(trial):
    x = trial.suggest_float("x", 0, 3)
    with multiprocessing.get_context("fork").Pool(2, initializer=set_scale, initargs=(10,)) as pool:
        return sum(pool.map(scaled, [x] * 5))
