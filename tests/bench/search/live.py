"""Searches that train for real: `python -m tests.bench.search.live --task digits --seeds 14`.

Decisions, clock and looks are those of a replay; what is drawn is trained as it is drawn. What a search
returns after 300 and 1,000 epochs is then trained with ten further seeds: their mean is what it is worth.
So is what one returns that ends earlier and trains its best settings again instead (`replay.confirmed`).
`--epochs 300` ends searches there.
A line of JSON for each search goes to the output; the table is of all lines there, and of two methods it
says how the second compares with the first over the seeds that both have, in the mean of the tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from objectives.config import TrainingConfig
from objectives.errors import DivergedError
from objectives.setup import assemble
from objectives.standalone import LocalTrial
from objectives.train import one_epoch
from tests.bench.search.methods import METHODS, OURS
from tests.bench.search.record import Recorded, load, trained
from tests.bench.search.replay import LOOKS, Run, Truth, World, confirmed, interval, replay, spent_to
from tests.bench.search.tasks import TASKS, Task

FRESH = 10  # seeds that say what a setting is worth


class Training(Run):
    """A training that is done as far as it is looked at."""

    def __init__(self, number: int, task: Task, point: Mapping[str, Any], seed: int) -> None:
        super().__init__(number, number, np.full(task.epochs, np.nan))
        self._metric = task.metric
        self._trial = LocalTrial({**task.settings(point), "checkpoint_every": 0}, seed=seed)
        self._setup = assemble(self._trial, TrainingConfig.read(self._trial.config), task.kind)
        self._done = 0

    @property
    def value(self) -> float:
        """What it has after its last epoch; NaN where it has diverged."""
        try:
            while self._done < self.epoch:
                self._done += 1
                values = one_epoch(self._trial, self._setup, self._done).values
                self.curve[self._done - 1] = values[self._metric] + 0 * values["loss"]
        except DivergedError:
            pass
        return super().value


class Live(World):
    """Settings as they are drawn; an epoch lasts as long as that of the nearest one that was recorded."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        super().__init__(recorded, seed)
        self._near = recorded.seconds
        self.points, self.seconds = [], []

    def run(self, point: Mapping[str, Any]) -> Run:
        """A training of this very setting, with a seed of its own."""
        number, self.begun = self.begun, self.begun + 1
        self.points.append(dict(point))
        self.seconds = [*self.seconds, self._near[self._places.nearest(point)]]
        return Training(number, self.task, point, self.seed * 100_000 + number)


def search(
    task: Task, method: str, workers: int, seed: int, target: float, budget: int = LOOKS[-1]
) -> dict[str, Any]:
    """One search: epochs to a complete run as good as `target`, and what is returned is worth, by look."""
    recorded = load(task)
    world = Live(recorded, seed)
    trace = replay(METHODS[method](world, budget), world, workers, budget)
    returned = {str(look): trace.returned[look] for look in LOOKS[1:] if look <= budget}
    if budget == LOOKS[-1]:
        returned[f"{budget}, retrained"] = confirmed(trace, world, budget)
    settings = sorted(set(returned.values()))
    seeds = [(1 + seed) * 10_000_000 + number for number in range(FRESH)]
    jobs = list(product(settings, seeds))
    curves = trained(task, [task.settings(world.points[one]) for one, _ in jobs], [own for _, own in jobs])
    ends = np.where(np.isnan(curves[:, -1]), Truth.worst(recorded), curves[:, -1]).reshape(-1, FRESH)
    worth = dict(zip(settings, ends.mean(1).tolist(), strict=True))
    epochs, _ = spent_to(trace, target, maximize=task.maximize)
    return {
        "task": task.name,
        "method": method,
        "workers": workers,
        "seed": seed,
        "epochs": epochs,
        "complete": len(trace.complete),
        "worth": {look: worth[one] for look, one in returned.items()},
        "points": {look: world.points[one] for look, one in returned.items()},
    }


def table(found: list[dict[str, Any]]) -> str:
    """A row for each task, method and number of workers: worths with their 95 % intervals."""
    looks = _looks(found)
    lines = [
        f"| task | workers | method | searches | to the target, median | reached | {' | '.join(looks)} |",
        "|---|---|---|---|---|---|" + "---|" * len(looks),
    ]
    kinds = sorted({(one["task"], one["workers"], one["method"]) for one in found})
    for kind in kinds:
        some = [one for one in found if (one["task"], one["workers"], one["method"]) == kind]
        epochs = [one["epochs"] for one in some]
        worths = (interval([one["worth"][look] for one in some]) for look in looks)
        cells = [
            str(len(some)),
            f"{statistics.median(epochs):.0f}",
            str(sum(map(math.isfinite, epochs))),
            *(f"{mean:.5g} [{low:.5g}, {high:.5g}]" for mean, low, high in worths),
        ]
        lines.append("| " + " | ".join([*map(str, kind), *cells]) + " |")
    return "\n".join(lines)


def _looks(found: list[dict[str, Any]]) -> list[str]:
    """Those that all searches have."""
    return [look for look in found[0]["worth"] if all(look in one["worth"] for one in found)]


def paired(found: list[dict[str, Any]], first: str, second: str, rounds: int = 5000) -> str:
    """The second method's epochs and regrets over the first's, over the seeds that both have, in the mean of
    the tasks; with 95 % intervals by bootstrap over the pairs.

    A search that did not come to the target counts as having come to it at the end. Regret counts from the
    best mean that was recorded or came up here; `capped`, up to that of the median of the recorded settings:
    what is no better than a random setting is lost, and how far it diverges says no more.
    """
    rng, drawn, means, count, looks = np.random.default_rng(0), [], [], 0, _looks(found)
    for task in (load(task) for task in TASKS if task.name in {one["task"] for one in found}):
        by = {(one["method"], one["seed"]): one for one in found if one["task"] == task.task.name}
        seeds = [seed for method, seed in by if method == first and (second, seed) in by]
        sign = 1 if task.task.maximize else -1
        seen = [sign * worth for one in by.values() for worth in one["worth"].values()]
        best = max(float(np.nanmax(sign * task.repeats[:, :, -1].mean(1))), *seen)
        cap = best - float(np.median(np.nan_to_num(sign * task.curves[:, -1], nan=-np.inf)))

        def row(one: dict[str, Any], best: float = best, cap: float = cap, sign: int = sign) -> list[float]:
            end = max(int(look) for look in looks if look.isdigit())
            regrets = [best - sign * one["worth"][look] for look in looks]
            return [min(one["epochs"], end), *regrets, *(min(regret, cap) for regret in regrets)]

        values = np.array([[row(by[method, seed]) for method in (first, second)] for seed in seeds])
        chosen = values[rng.integers(len(seeds), size=(rounds, len(seeds)))].mean(1)  # [rounds, method, row]
        drawn.append(chosen[:, 1] / chosen[:, 0])
        means.append(values.mean(0)[1] / values.mean(0)[0])
        count += len(seeds)
    low, high = np.percentile(np.mean(drawn, 0), [2.5, 97.5], axis=0)
    regrets = [f"regret at {look}" for look in looks]
    names = ["epochs to the target", *regrets, *(f"{regret}, capped" for regret in regrets)]
    said = zip(names, np.mean(means, 0), low, high, strict=True)
    ratios = ", ".join(
        f"{name} {mean:.2f} [{lowest:.2f}, {highest:.2f}]" for name, mean, lowest, highest in said
    )
    return f"{second} over {first}, {len(means)} tasks, {count} pairs: {ratios}"


def main() -> None:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", default="digits", help="default: digits")
    parser.add_argument("--methods", default=OURS, help="by semicolons")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=14)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--epochs", type=int, default=LOOKS[-1], choices=LOOKS[1:], help="of a search")
    parser.add_argument(
        "--best", type=int, default=1, choices=(1, 5), help="the target: of so many per cent recorded"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("live.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    methods, chosen = options.methods.split(";"), options.tasks.split(",")
    tasks = [task for task in TASKS if task.name in chosen]
    seeds = range(options.first, options.first + options.seeds)
    for seed, task, method in product(seeds, tasks, methods):
        target = Truth.of(load(task)).top[options.best]
        found = search(task, method, options.workers, seed, target, options.epochs)
        with options.output.open("a") as output:
            output.write(json.dumps(found) + "\n")
    lines = [json.loads(line) for line in options.output.read_text().splitlines()]
    print(table(lines))
    if len(methods) == 2:
        print(paired(lines, *methods))


if __name__ == "__main__":
    main()
