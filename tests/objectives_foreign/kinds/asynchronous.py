"""Gathers coroutines inside an ordinary function."""

import asyncio


async def fold(x, index):
    await asyncio.sleep(0)
    return x + index


async def folds(x):
    return sum(await asyncio.gather(*(fold(x, index) for index in range(3))))


def objective(trial):
    return asyncio.run(folds(trial.suggest_float("x", 0, 1)))
