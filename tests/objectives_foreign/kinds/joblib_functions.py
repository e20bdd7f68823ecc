"""joblib over a function and a dataclass of the file's own."""

from dataclasses import dataclass

from joblib import Parallel, delayed


@dataclass(frozen=True)
class Setting:
    x: float
    fold: int


def score(setting: Setting) -> float:
    return setting.x**2 + setting.fold


def objective(trial):
    x = trial.suggest_float("x", -3, 3)
    return sum(Parallel(n_jobs=2)(delayed(score)(Setting(x, fold)) for fold in range(4)))
