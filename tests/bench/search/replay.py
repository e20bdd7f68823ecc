"""Replay recorded trainings on a simulated clock: workers of unequal speed, an epoch at a time."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from optuna.distributions import CategoricalDistribution

from hpo.search.space import distribution
from tests.bench.search.record import Recorded

LOOKS = (100, 300, 1000)  # epochs after which a search is looked at
CONFIRMED = {
    300: (2, 1),
    1000: (3, 2),
}  # then so many settings were trained again, so often


@dataclass(eq=False)
class Run:
    """A training of a setting that was recorded."""

    number: int
    setting: int
    curve: np.ndarray
    epoch: int = 0

    @property
    def value(self) -> float:
        """What it had after its last epoch."""
        return float(self.curve[self.epoch - 1])

    @property
    def is_complete(self) -> bool:
        """Whether there is no further epoch."""
        return self.epoch == len(self.curve)


class World:
    """One replay's recorded settings, and how often each one was drawn."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        self.task = recorded.task
        self.seed = seed
        self.points = recorded.points
        self.seconds = recorded.seconds
        self._places = Places(recorded)
        rng = np.random.default_rng(seed)
        self.curves = [curve[None] for curve in recorded.curves]  # of each setting, its trainings
        for setting, repeats in zip(recorded.top, recorded.repeats, strict=True):
            self.curves[setting] = rng.permutation(repeats)
        self._drawn = Counter[int]()
        self.begun = 0

    def run(self, point: Mapping[str, Any]) -> Run:
        """A run of the nearest setting that was recorded: each time another of its trainings, in turn."""
        setting = self._places.nearest(point)
        trained = self.curves[setting]
        self._drawn[setting] += 1
        self.begun += 1
        return Run(self.begun - 1, setting, trained[(self._drawn[setting] - 1) % len(trained)])


class Places:
    """Where settings lie: numbers in [0, 1] on their scale, one for each choice of a categorical."""

    def __init__(self, recorded: Recorded) -> None:
        self._space = {name: distribution(one) for name, one in recorded.task.spec.space.items()}
        self._rows = np.array([self._row(point) for point in recorded.points])

    def nearest(self, point: Mapping[str, Any]) -> int:
        """The number of the nearest one."""
        return int(np.argmin(((self._rows - self._row(point)) ** 2).sum(1)))

    def _row(self, point: Mapping[str, Any]) -> list[float]:
        row: list[float] = []
        held: Any
        for name, held in self._space.items():
            if isinstance(held, CategoricalDistribution):
                row += [float(point.get(name) == choice) / math.sqrt(2) for choice in held.choices]
            elif name not in point:  # inactive
                row.append(0.5)
            else:
                low, high, value = (
                    math.log(x) if held.log else float(x) for x in (held.low, held.high, point[name])
                )
                row.append((value - low) / (high - low))
        return row


class Method(Protocol):
    """A way to search."""

    def next(self) -> Run:
        """What a free worker does: a new run, or one that goes on."""

    def told(self, run: Run) -> bool:
        """A run has a further value; whether its worker goes on with it."""

    def ended(self, run: Run, *, diverged: bool) -> None:
        """A run has done its last epoch, or diverged in it."""


class Complete(NamedTuple):
    """A run that has done its last epoch, and what the search had spent by then."""

    epochs: int
    seconds: float
    setting: int
    value: float


@dataclass
class Trace:
    """What a search came to, by epochs spent."""

    returned: dict[int, int] = field(default_factory=dict)  # setting, by LOOKS
    seconds: dict[int, float] = field(default_factory=dict)  # of the simulated clock, by LOOKS
    complete: list[Complete] = field(default_factory=list)
    decisions: list[float] = field(default_factory=list)  # CPU seconds of each


def replay(method: Method, world: World, workers: int = 1, budget: int = LOOKS[-1]) -> Trace:
    """Search until `budget` epochs are spent."""
    trace, speeds = Trace(), np.random.default_rng(world.seed).uniform(0.5, 1.5, workers)
    best = _Best(world.task.maximize)
    spent = 0

    def begin(run: Run, now: float, worker: int) -> None:
        heapq.heappush(events, (now + world.seconds[run.setting] / speeds[worker], worker))
        held[worker] = run

    def decide() -> Run:
        began = time.process_time()
        run = method.next()
        trace.decisions.append(time.process_time() - began)
        return run

    events: list[tuple[float, int]] = []
    held: dict[int, Run] = {}
    for worker in range(workers):
        begin(decide(), 0.0, worker)
    while spent < budget:
        now, worker = heapq.heappop(events)
        run = held[worker]
        run.epoch += 1
        spent += 1
        goes_on = False
        if math.isnan(run.value):
            method.ended(run, diverged=True)
        elif run.is_complete:
            trace.complete.append(Complete(spent, now, run.setting, run.value))
            best.add(run)
            method.ended(run, diverged=False)
        else:
            best.add(run)
            goes_on = method.told(run)
        if spent in LOOKS:
            trace.returned[spent], trace.seconds[spent] = best.setting, now
        begin(run if goes_on else decide(), now, worker)
    return trace


def confirmed(trace: Trace, world: World, look: int) -> int:
    """The setting that a search returns which ends earlier and trains its best ones with fresh seeds instead:
    the one with the best mean over these. Where fewer than two were complete by then it searches on."""
    count, seeds = CONFIRMED[look]
    sign, full = 1 if world.task.maximize else -1, world.task.epochs
    best: dict[int, float] = {}
    for one in trace.complete:
        if one.epochs <= look - count * seeds * full:
            best[one.setting] = max(best.get(one.setting, -math.inf), sign * one.value)
    if len(best) < 2:
        return trace.returned[look]
    means = {}
    for setting in sorted(best, key=lambda one: -best[one])[:count]:
        runs = [world.run(world.points[setting]) for _ in range(seeds)]
        for run in runs:
            run.epoch = full
        mean = sign * np.mean([run.value for run in runs])
        means[setting] = -math.inf if math.isnan(mean) else mean
    return max(means, key=lambda one: means[one])


class _Best:
    """The setting a search returns: the best of the complete ones; before there is any, of the furthest."""

    def __init__(self, maximize: bool) -> None:
        self._sign = 1 if maximize else -1
        self._key: tuple[int, float] = (-1, 0.0)
        self.setting = 0

    def add(self, run: Run) -> None:
        key = (run.epoch, self._sign * run.value)
        if key > self._key:
            self._key, self.setting = key, run.setting


@dataclass(frozen=True)
class Truth:
    """What each setting is worth, the lower the better: its distance from the best, in the metric's unit."""

    regret: np.ndarray  # [S]
    top: Mapping[int, float]  # per cent -> the value that a run of such a setting has

    @classmethod
    def of(cls, recorded: Recorded) -> Truth:
        """From the mean over fresh seeds where there are, else from the one training."""
        sign = 1 if recorded.task.maximize else -1
        last = sign * recorded.curves[:, -1]
        worst = sign * cls.worst(recorded)
        worth = np.where(np.isnan(last), worst, last)
        repeats = sign * recorded.repeats[:, :, -1]
        worth[recorded.top] = np.where(np.isnan(repeats), worst, repeats).mean(1)
        ranked = np.sort(np.where(np.isnan(last), worst, last))[::-1]
        return cls(
            worth[recorded.top].max() - worth,
            {share: sign * float(ranked[max(1, len(ranked) * share // 100) - 1]) for share in (5, 1)},
        )

    @staticmethod
    def worst(recorded: Recorded) -> float:
        """What a training that diverged counts as: the worst value that one ended with."""
        last = recorded.curves[:, -1]
        return float(np.nanmin(last) if recorded.task.maximize else np.nanmax(last))


def spent_to(trace: Trace, value: float, *, maximize: bool) -> tuple[float, float]:
    """Epochs and seconds until a complete run is as good as `value`; infinite where none was."""
    for run in trace.complete:
        if run.value >= value if maximize else run.value <= value:
            return run.epochs, run.seconds
    return math.inf, math.inf


def interval(values: Sequence[float], rounds: int = 2000) -> tuple[float, float, float]:
    """The mean and its 95 % interval by bootstrap."""
    array = np.asarray(values, float)
    means = np.random.default_rng(0).choice(array, (rounds, len(array))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(array.mean()), float(low), float(high)
