"""The benchmark of searches, in short: `make search` and its recordings work and tell what they should."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import pytest

from tests.bench.search.__main__ import best_of, ratios, search, table
from tests.bench.search.live import Live
from tests.bench.search.methods import OURS
from tests.bench.search.record import load, recorded
from tests.bench.search.replay import Run, Truth, World, confirmed, replay

RECORDED = recorded()


@pytest.mark.parametrize("task", RECORDED, ids=lambda task: task.name)
def test_what_was_recorded_belongs_to_its_task(task: Any) -> None:
    """Points are not kept with their curves, but drawn again: another space or draw would mix them up."""
    found = load(task)
    assert found.curves.shape[1] == task.epochs
    sign = 1 if task.maximize else -1
    last, again = sign * found.curves[:, -1], sign * found.repeats[:, :, -1]
    assert np.nanmax(last) == last[found.top[0]]
    assert np.nanmedian(again) > np.nanmedian(last), "the best ones of one seed are good with others"
    assert min(Truth.of(found).regret) == 0


class Ordered:
    """Full runs of the settings in an order; notes who worked when."""

    def __init__(self, world: World, order: Sequence[int]) -> None:
        self.world = world
        self.order = list(order)

    def next(self) -> Run:
        return self.world.run(self.world.points[self.order.pop(0)])

    def told(self, run: Run) -> bool:
        return True

    def ended(self, run: Run, *, diverged: bool) -> None:
        pass


def test_a_replay_spends_epochs_and_seconds_as_recorded() -> None:
    task = RECORDED[0]
    world = World(load(task), seed=1)
    trace = replay(Ordered(world, range(100)), world, workers=1, budget=10 * task.epochs)
    assert [run.epochs for run in trace.complete] == [task.epochs * n for n in range(1, 11)]
    values = [run.value for run in trace.complete]
    assert values == [world.curves[n][0][-1] for n in range(10)]
    speed = np.random.default_rng(1).uniform(0.5, 1.5)
    assert trace.complete[-1].seconds == pytest.approx(task.epochs * sum(world.seconds[:10]) / speed)


def test_a_point_becomes_the_nearest_setting_each_time_another_of_its_trainings() -> None:
    found = load(RECORDED[0])
    world = World(found, seed=0)
    best = world.points[found.top[0]]
    runs = [world.run(best) for _ in range(21)]
    assert {run.setting for run in runs} == {found.top[0]}
    assert len({tuple(run.curve) for run in runs}) > 10, "20 were recorded; some are alike to the last digit"
    assert (runs[20].number, tuple(runs[20].curve)) == (20, tuple(runs[0].curve))


def test_fresh_seeds_find_out_the_setting_that_was_lucky_once() -> None:
    """They are part of the budget: what is complete only after the search has stopped is no candidate."""
    world = World(load(RECORDED[0]), seed=0)
    full = world.task.epochs
    for setting, values in ((0, [0.999, 0.1]), (1, [0.998, 0.5]), (2, [0.99, 0.9])):
        world.curves[setting] = np.full((2, full), np.array(values)[:, None])
    late = (1000 - 6 * full) // full
    order = [0, 1, 2, *range(3, late), *range(100, 200)]
    world.curves[100] = np.full((1, full), 1.0)
    trace = replay(Ordered(world, order), world, workers=1)
    assert trace.returned[300] == 0
    assert trace.returned[1000] == 100
    assert confirmed(trace, world, 300) == 1, "of two settings, trained once more each"
    assert confirmed(trace, world, 1000) == 2, "of three, trained twice"


def test_a_real_training_is_the_same_beside_others() -> None:
    """Trainings that are parked and go on share a process; none changes another's random numbers."""
    found = load(next(task for task in RECORDED if task.name == "wine"))
    beside, alone = Live(found, 3), Live(found, 3)
    several = [beside.run(beside.task.points(2)[number]) for number in range(2)]
    for epoch in range(1, 4):
        for run in several:
            run.epoch = epoch
            assert math.isfinite(run.value)
    alone.begun = 1
    one = alone.run(alone.task.points(2)[1])
    one.epoch = 3
    assert one.value == several[1].value != several[0].value


def test_promotion_comes_to_good_runs_before_full_runs_do() -> None:
    """And the tables have a row for each method, and one for each rival."""
    full = [search("digits", "Optuna random, none", 1, seed) for seed in range(4)]
    promoted = [search("digits", "random, promotion", 8, seed) for seed in range(4)]
    assert median(one.epochs[5] for one in promoted) < median(one.epochs[5] for one in full)
    ours = search("digits", OURS, 1, 0)
    assert math.isfinite(ours.regret[1000])
    assert table([*full, *promoted, ours]).count("\n") == 4
    assert "| Optuna random, none | 1 |" in ratios([*full, ours])


def test_the_best_of_several_ways_is_not_the_luckiest_of_them() -> None:
    """Of eight that are alike the least mean is far below any; the one that is better by itself is found."""
    ways = list(np.random.default_rng(0).exponential(1, (200, 8, 20)))
    assert np.mean([min(way.mean() for way in alike) for alike in ways]) < 0.75
    assert np.mean([best_of(alike).mean() for alike in ways]) == pytest.approx(1, abs=0.05)
    better = [best_of([*alike, alike[0] / 4]).mean() for alike in ways]
    assert np.mean(better) == pytest.approx(0.25, abs=0.02)
