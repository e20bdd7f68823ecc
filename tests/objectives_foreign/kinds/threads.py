"""A pool of threads, and a thread that is left behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

done = threading.Event()


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    threading.Thread(target=done.wait, name="left behind").start()
    with ThreadPoolExecutor(3) as pool:
        return sum(pool.map(lambda fold: x + fold, range(3)))
