"""Imports a `storage` of its own, which processes that are spawned must find, too."""

import multiprocessing

from storage import square


def plus_one(x):
    return square(x) + 1


def objective(trial):
    x = trial.suggest_float("x", -3, 3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(plus_one, (x,))
