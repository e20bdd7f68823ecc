"""Does another split for each trial find settings that generalise better? `python -m tests.bench.reshuffle`.

Random search over a small network on 300 digits, once with one split for all trials and once with `split:
reshuffle`, from the same seeds. What a returned setting is worth is its mean accuracy on the test set over
fresh trainings, each with a split of its own.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np

from objectives.config import TrainingConfig
from objectives.errors import DivergedError
from objectives.setup import Setup, assemble, evaluation_batches
from objectives.standalone import LocalTrial
from objectives.train import measure, train

FIXED: dict[str, Any] = {"dataset": "digits", "train_limit": 300, "epochs": 10, "optimizer": "momentum"}
FRESH = 5  # trainings of a returned setting


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """A random setting."""
    return {
        "lr": float(10 ** rng.uniform(-3, 0)),
        "hidden": int(2 ** rng.uniform(3, 7)),
        "weight_decay": float(10 ** rng.uniform(-6, -2)),
        "dropout": float(rng.uniform(0, 0.6)),
    }


def trained(point: dict[str, Any], split: str, seed: int) -> tuple[float, Setup]:
    """The best epoch's validation accuracy, and the model with its weights."""
    trial = LocalTrial({**FIXED, **point, "split": split, "checkpoint_every": 0}, seed)
    setup = assemble(trial, TrainingConfig.read(trial.config), "classification")
    progress, best = train(trial, setup)
    setup.model.load_state_dict(best)
    return progress.best_values["accuracy"], setup


def worth(point: dict[str, Any], seed: int) -> float:
    """Mean test accuracy of a setting over fresh seeds and splits."""
    found = []
    for fresh in range(FRESH):
        _, setup = trained(point, "reshuffle", 1_000_000 + 100 * seed + fresh)
        batches = evaluation_batches(setup.config, setup.data, setup.data.test)
        found.append(measure(setup, batches, ["accuracy"])["accuracy"])
    return statistics.fmean(found)


def search(seed: int, trials: int, split: str) -> tuple[float, float]:
    """What the best of so many settings reported, and what it is worth."""
    rng = np.random.default_rng(seed)
    points = [drawn(rng) for _ in range(trials)]
    values = []
    for number, point in enumerate(points):
        try:
            values.append(trained(point, split, 1000 * seed + number)[0])
        except DivergedError:
            values.append(0.0)
    best = int(np.argmax(values))
    return values[best], worth(points[best], seed)


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=30)
    asked = parser.parse_args()
    found = {
        split: np.array([search(seed, asked.trials, split) for seed in range(asked.seeds)])
        for split in ("random", "reshuffle")
    }
    for split, rows in found.items():
        reported, value = rows.mean(0)
        print(f"{split:10} reported {reported:.4f}, worth {value:.4f}, too good by {reported - value:.4f}")
    gain = found["reshuffle"][:, 1] - found["random"][:, 1]
    spread = 1.65 * gain.std(ddof=1) / asked.seeds**0.5
    print(f"reshuffle is worth {gain.mean():+.4f} ± {spread:.4f} (90 %) of {asked.seeds} searches")


if __name__ == "__main__":
    main()
