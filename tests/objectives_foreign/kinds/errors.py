"""Fails for some settings, in several ways."""


class UnluckyError(Exception):
    pass


def objective(trial):
    case = trial.suggest_int("case", 0, 9)
    if case == 0:
        raise UnluckyError("a class of the file's own")
    if case == 1:
        return None
    if case == 2:
        return float("nan")
    if case == 3:
        return "not a number"
    if case == 4:
        raise AssertionError
    return case
