"""Schedules equal torch.optim's, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch.optim import lr_scheduler as lrs

from objectives.config import ScheduleName, TrainingConfig
from objectives.schedules import Plateau, apply, build
from tests.objectives.helpers import classify

EPOCHS, PER_EPOCH, LR = 12, 7, 0.5
TOTAL = EPOCHS * PER_EPOCH
Make = Callable[[torch.optim.Optimizer], lrs.LRScheduler]

PER_EPOCH_SCHEDULES: list[tuple[dict[str, Any], Make]] = [
    ({"schedule": "constant"}, lambda o: lrs.LambdaLR(o, lambda _: 1.0)),
    ({"schedule": "step", "step_epochs": 3, "gamma": 0.3}, lambda o: lrs.StepLR(o, 3, 0.3)),
    (
        {"schedule": "multistep", "milestones": [2, 7], "gamma": 0.3},
        lambda o: lrs.MultiStepLR(o, [2, 7], 0.3),
    ),
    ({"schedule": "exponential", "gamma": 0.9}, lambda o: lrs.ExponentialLR(o, 0.9)),
]
PER_STEP_SCHEDULES: list[tuple[dict[str, Any], Make]] = [
    ({"schedule": "polynomial", "power": 2.0}, lambda o: lrs.PolynomialLR(o, TOTAL, 2.0)),
    ({"schedule": "cosine", "min_lr": 0.01}, lambda o: lrs.CosineAnnealingLR(o, TOTAL, 0.01)),
    (
        {"schedule": "cosine_restarts", "restart_epochs": 2, "restart_factor": 2, "min_lr": 0.01},
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 2 * PER_EPOCH, 2, 0.01),
    ),
    (
        {"schedule": "one_cycle"},
        lambda o: lrs.OneCycleLR(o, LR, TOTAL, cycle_momentum=False),
    ),
]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig.read({"lr": LR, "epochs": EPOCHS, **settings})


def reference(make: Make, steps: int) -> list[float]:
    subject = optimizer()
    scheduler = make(subject)
    rates = []
    for _ in range(steps):
        rates.append(subject.param_groups[0]["lr"])
        subject.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("settings", "make"), PER_EPOCH_SCHEDULES)
def test_schedules_by_epoch(settings: dict[str, Any], make: Make) -> None:
    rate = build(config(**settings), PER_EPOCH)
    ours = [rate(step) for step in range(TOTAL)]
    expected = [value for value in reference(make, EPOCHS) for _ in range(PER_EPOCH)]
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("settings", "make"), PER_STEP_SCHEDULES)
def test_schedules_by_step(settings: dict[str, Any], make: Make) -> None:
    rate = build(config(**settings), PER_EPOCH)
    assert [rate(step) for step in range(TOTAL)] == pytest.approx(reference(make, TOTAL), rel=1e-6, abs=1e-9)


def test_warm_up_is_linear_and_comes_before() -> None:
    rate = build(config(schedule="cosine", warmup_epochs=2, warmup_start=0.1), PER_EPOCH)
    warmup = 2 * PER_EPOCH
    expected = reference(lambda o: lrs.LinearLR(o, 0.1, 1.0, warmup), warmup)
    assert [rate(step) for step in range(warmup)] == pytest.approx(expected, rel=1e-6)
    after = reference(lambda o: lrs.CosineAnnealingLR(o, TOTAL - warmup), TOTAL - warmup)
    assert [rate(step) for step in range(warmup, TOTAL)] == pytest.approx(after, rel=1e-6, abs=1e-9)


def test_warm_up_of_half_an_epoch() -> None:
    rate = build(config(warmup_epochs=0.5, warmup_start=0.5), 8)
    assert [rate(step) for step in range(6)] == pytest.approx([0.25, 0.3125, 0.375, 0.4375, 0.5, 0.5])


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize("rise", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_one_cycle_of_few_steps_is_pytorchs_wherever_that_is_defined(steps: int, rise: float) -> None:
    """Where rise x steps is 1 PyTorch divides by zero; there the first step is the top."""
    rate = build(config(schedule="one_cycle", one_cycle_rise=rise, epochs=1), steps)
    ours = [rate(step) for step in range(steps)]
    try:
        subject = optimizer()
        scheduler = lrs.OneCycleLR(subject, LR, steps, pct_start=rise, cycle_momentum=False)
    except ZeroDivisionError:
        assert rise * steps == pytest.approx(1)
        assert ours[0] == LR
        assert ours[-1] == pytest.approx(LR / 25 / 1e4)
        return
    expected = []
    for step in range(steps):
        expected.append(scheduler.get_last_lr()[0])
        subject.step()
        if step + 1 < steps:
            scheduler.step()
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", get_args(ScheduleName))
def test_every_schedule_has_a_rate_for_the_shortest_trainings(schedule: str) -> None:
    """One epoch, one step, a warm-up that takes every step: rates are positive and at most lr."""
    for steps, epochs, warmup in itertools.product((1, 2, 3), (1, 2), (0.0, 0.5, 0.99)):
        subject = config(
            schedule=schedule, epochs=epochs, milestones=[1], warmup_epochs=warmup * epochs, min_lr=0.01
        )
        rate = build(subject, steps)
        rates = [Plateau(subject).lowered(rate(step)) for step in range(steps * epochs)]
        assert all(0 < value <= LR for value in rates)


@pytest.mark.parametrize("min_lr", [0.0, 0.2, 0.5, 0.7])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_drops_when_and_as_far_as_pytorchs_does(patience: int, min_lr: float) -> None:
    values = [5, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 2, 2, 2]
    subject = optimizer()
    theirs = lrs.ReduceLROnPlateau(subject, factor=0.5, patience=patience, threshold=0.0, min_lr=min_lr)
    ours = Plateau(config(schedule="plateau", gamma=0.5, plateau_patience=patience, min_lr=min_lr))
    for value in values:
        theirs.step(value)
        ours.update(value)
        assert ours.lowered(LR) == pytest.approx(subject.param_groups[0]["lr"])


def test_plateau_does_nothing_under_another_schedule() -> None:
    plateau = Plateau(config(schedule="cosine", plateau_patience=0))
    for _ in range(5):
        plateau.update(1.0)
    assert plateau.factor == 1.0


def test_a_warm_up_may_stay_below_the_plateaus_lowest_rate() -> None:
    plateau = Plateau(config(schedule="plateau", min_lr=0.1, plateau_patience=0, gamma=0.1))
    assert plateau.lowered(0.05) == 0.05
    for _ in range(4):
        plateau.update(1.0)
    assert plateau.lowered(0.05) == 0.05
    assert plateau.lowered(LR) == 0.1


def test_the_rate_reaches_every_group() -> None:
    subject = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}], lr=1.0)
    apply(subject, 0.125)
    assert [group["lr"] for group in subject.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("settings", [s for s, _ in PER_EPOCH_SCHEDULES + PER_STEP_SCHEDULES])
def test_the_loop_trains_at_the_scheduled_rate(settings: dict[str, Any]) -> None:
    """The logged rate is that of the epoch's last step."""
    _, trial = classify(epochs=12, lr=0.02, batch_size=150, train_limit=300, **settings)
    rate = build(TrainingConfig.read({"epochs": 12, "lr": 0.02, **settings}), 2)
    for epoch in range(1, 13):
        assert trial.logs[epoch]["lr"] == pytest.approx(rate(epoch * 2 - 1))


def test_the_loop_lowers_the_rate_on_a_plateau() -> None:
    _, trial = classify(epochs=12, lr=1e-9, schedule="plateau", plateau_patience=1, gamma=0.5)
    rates = [trial.logs[epoch]["lr"] for epoch in range(1, 13)]
    assert rates[0] == 1e-9
    assert rates[-1] < 1e-9 / 4


def test_the_loop_keeps_a_plateau_at_its_lowest_rate() -> None:
    _, trial = classify(epochs=12, lr=1e-9, schedule="plateau", plateau_patience=0, gamma=0.1, min_lr=0.5e-9)
    assert trial.logs[12]["lr"] == 0.5e-9
