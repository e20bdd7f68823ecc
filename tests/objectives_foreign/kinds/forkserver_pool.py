"""An executor whose processes come from a fork server."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


class Model:
    def __init__(self, x):
        self.x = x

    def loss(self):
        return Model(self.x * self.x)


def objective(trial):
    x = trial.suggest_float("x", -3, 3)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(Model(x).loss).result().x
