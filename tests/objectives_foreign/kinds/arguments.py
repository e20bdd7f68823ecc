"""Reads the command line when it is imported, as scripts do."""

import argparse
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
args = parser.parse_args()


def objective(trial):
    assert Path(sys.argv[0]).name == Path(__file__).name or __name__ != "__main__"
    return args.epochs * trial.suggest_float("x", 0, 1)


if __name__ == "__main__":
    import optuna

    optuna.create_study().optimize(objective, n_trials=100)
