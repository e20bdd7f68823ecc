"""What pruning by fronts saves: `python -m tests.bench.fronts [--seeds 20]`, a minute.

Accuracy against flops over the recorded curves of digits (`tests.bench.search`), one worker, random settings.
Each way has so many epochs; what counts are the trials it trained to the end, by the hypervolume of accuracy
and the logarithm of flops, as a share of what all recorded settings dominate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import numpy as np
import torch

from hpo.search.promotion import Ladder, Standing
from objectives.models.size import count_flops
from storage.queue.rungs import Rung
from tests.bench.search.record import load
from tests.bench.search.tasks import TASKS, network

DIRECTIONS = ("maximize", "minimize")
FACTOR = 3
BUDGETS = (300, 600, 1200, 2400)


def costs(points: list[dict[str, object]]) -> np.ndarray:
    """The logarithm of each setting's flops."""
    found: dict[tuple[object, object], float] = {}
    for point in points:
        kind = point["arch"], point["width"]
        if kind not in found:
            model = network(str(kind[0]), int(str(kind[1])), 0.0)
            found[kind] = math.log10(count_flops(model, (1, 8, 8), torch.device("cpu")))
    return np.array([found[point["arch"], point["width"]] for point in points])


def hypervolume(points: list[tuple[float, float]], worst: tuple[float, float]) -> float:
    """The area that these points dominate: of each (more is better, less is better)."""
    area, best = 0.0, worst[0]
    ordered = sorted(points, key=lambda point: (point[1], -point[0]))
    ends = [*(cost for _, cost in ordered[1:]), worst[1]]
    for (value, cost), after in zip(ordered, ends[: len(ordered)], strict=True):
        best = max(best, value)
        area += (best - worst[0]) * (after - cost)
    return area


def full(curves: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, int | None]]:
    """Epochs that were trained, and the setting that came to its end with them."""
    for setting in order:
        yield curves.shape[1], int(setting)


def halving(
    curves: np.ndarray, order: np.ndarray, flops: np.ndarray, *, promotes: bool
) -> Iterator[tuple[int, int | None]]:
    """As `full`, by successive halving that ranks fronts."""
    ladder = Ladder.of(1, curves.shape[1], FACTOR)
    standing = Standing([ladder], FACTOR, DIRECTIONS)
    waiting: set[int] = set()
    new = iter(order)
    while True:
        found = (
            standing.promotion(lambda asked: [one for one in asked if one in waiting]) if promotes else None
        )
        setting = next(new, None) if found is None else found[0]
        if setting is None:
            return
        waiting.discard(setting)
        done = 0 if found is None else found[1] - found[2]
        for epoch in ladder.epochs[ladder.epochs.index(done) + 1 if done else 0 :]:
            is_last = epoch == ladder.epochs[-1]
            yield epoch - done, int(setting) if is_last else None
            done = epoch
            if is_last:
                break
            rung = Rung(
                int(setting),
                ladder.epochs.index(epoch),
                0,
                epoch,
                curves[setting, epoch - 1],
                (flops[setting],),
            )
            standing.learn([rung])
            waiting.add(int(setting))
            if promotes or not standing.goes_on(rung, 0):
                break


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    task = load(TASKS[0])
    curves, flops = np.nan_to_num(task.curves, nan=0.1), costs(task.points)
    worst = 0.1, float(flops.max())
    whole = hypervolume(list(zip(curves[:, -1], flops, strict=True)), worst)
    found: dict[str, np.ndarray] = {}
    for name in ("full", "stop", "promote"):
        rows = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(curves))
            ways = (
                full(curves, order)
                if name == "full"
                else halving(curves, order, flops, promotes=name == "promote")
            )
            spent, ended, row = 0, [], dict.fromkeys((*BUDGETS, *(b // 2 for b in BUDGETS)), 0.0)
            for epochs, setting in ways:
                spent += epochs
                if setting is not None:
                    ended.append((float(curves[setting, -1]), float(flops[setting])))
                area = hypervolume(ended, worst) / whole
                row.update({budget: area for budget in row if spent <= budget})
                if spent >= max(row):
                    break
            rows.append(row)
        found[name] = np.array([[row[budget] for budget in sorted(row)] for row in rows])
    budgets = sorted({*BUDGETS, *(b // 2 for b in BUDGETS)})
    print(f"{len(curves)} settings, {curves.shape[1]} epochs, {seeds} seeds; share of the hypervolume of all")
    print("epochs ", *(f"{budget:>14}" for budget in budgets))
    for name, shares in found.items():
        spread = 1.65 * shares.std(0) / math.sqrt(seeds)
        print(f"{name:8}", *(f"{m:.3f} ± {s:.3f}" for m, s in zip(shares.mean(0), spread, strict=True)))
    for name in ("stop", "promote"):
        for budget in BUDGETS:
            ratio = found[name][:, budgets.index(budget // 2)] / found["full"][:, budgets.index(budget)]
            spread = 1.65 * ratio.std() / math.sqrt(seeds)
            print(f"{name} at {budget // 2} over full at {budget}: {ratio.mean():.3f} ± {spread:.3f}")


if __name__ == "__main__":
    main()
