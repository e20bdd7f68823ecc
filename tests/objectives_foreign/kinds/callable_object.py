"""An object that is called, made of a class with data, in place of a function."""

import functools
import random


class Objective:
    def __init__(self, data):
        self.data = data

    def __call__(self, trial):
        return self.data[trial.suggest_int("index", 0, len(self.data) - 1)]


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        print("called with", len(args))
        return function(*args, **kwargs)

    return wrapper


objective = logged(Objective(random.Random(1).choices(range(100), k=20)))
