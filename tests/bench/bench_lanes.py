"""Trainings in lanes against the same trainings one after another: `python -m tests.bench.bench_lanes`.

64 settings of a small MLP on digits differ in optimiser, learning rate and seed. Rounds of both
sides alternate, on one core; medians are compared. With `--device cuda` the same on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from objectives import classifier, lanes
from objectives import train as alone
from objectives.config import TrainingConfig
from objectives.setup import Setup, assemble
from objectives.standalone import LocalTrial
from tests.bench.bench_training import Row, alternate, table

OPTIMIZERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"]
SMALL: dict[str, Any] = {"dataset": "digits", "epochs": 20, "hidden": 32, "checkpoint_every": 0}
CNN: dict[str, Any] = {"model": "cnn", "channels": 8, "epochs": 3, "optimizer": "adam"}
CASES: list[tuple[str, int, dict[str, Any], float]] = [
    ("64 settings of an MLP 64-32-10, every optimiser", 64, {}, 5),
    ("64 settings of an MLP 64-32-10, adam, dropout", 64, {"optimizer": "adam", "dropout": 0.2}, 1),
    ("16 settings of an MLP 64-128-10, adam", 16, {"optimizer": "adam", "hidden": 128}, 1),
    ("8 settings of an MLP 64-512-10, adam", 8, {"optimizer": "adam", "hidden": 512}, 1),
    ("8 settings of a CNN of 8 and 16 channels, adam", 8, CNN, 1),
]


def settings(count: int, **own: Any) -> list[dict[str, Any]]:
    """So many settings of one build."""
    return [
        {**SMALL, "optimizer": OPTIMIZERS[i % 8], "lr": 0.002 * (1 + i / count), **own} for i in range(count)
    ]


def sides(
    chosen: list[dict[str, Any]], device: str, of: int | None = None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Both ways to train `chosen`: one after another (only the first `of`), and together."""

    def assembled(some: list[dict[str, Any]]) -> tuple[list[LocalTrial], list[Setup]]:
        trials = [LocalTrial(each, seed=seed, device=device) for seed, each in enumerate(some)]
        return trials, [
            assemble(trial, TrainingConfig.read(trial.config), "classification") for trial in trials
        ]

    def one_after_another() -> None:
        for trial, setup in zip(*assembled(chosen[:of]), strict=True):
            alone.train(trial, setup)

    def together() -> None:
        lanes.train(*assembled(chosen))

    return one_after_another, together


def whole_trial(device: str, **own: Any) -> None:
    """One trial of the small MLP, with its files."""
    classifier.objective(LocalTrial({**SMALL, "lr": 0.003, **own}, device=device))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--trials", action="store_true", help="only the trials with folds and seeds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_gpu = options.device != "cpu"
    rows = []
    for work, count, own, wanted in () if options.trials else CASES:
        few = min(count, 8)
        one, many = sides(settings(count, **own), options.device, few)
        theirs, mine = alternate(options.rounds, one, many)
        goal = 30 if count == 64 and on_gpu else wanted
        rows.append(Row(work, theirs * count / few, mine, "ms", goal))
    once, folds, seeds = alternate(
        options.rounds,
        lambda: whole_trial(options.device),
        lambda: whole_trial(options.device, folds=5),
        lambda: whole_trial(options.device, seeds=10),
    )
    rows.append(Row("a trial with folds: 5, against one without", once, folds, "ms", 2, at_most=True))
    rows.append(Row("a trial with seeds: 10, against one without", once, seeds, "ms", 3.5, at_most=True))
    print(f"torch {torch.__version__}, {options.device}, one thread, medians of {options.rounds} rounds")
    print("(one after another: eight of the settings were trained and the time multiplied)")
    print(table(rows))


if __name__ == "__main__":
    main()
