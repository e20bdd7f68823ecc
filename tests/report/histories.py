"""Studies that look like real ones, made from a seed: what the report's tests and pictures are made from."""

from __future__ import annotations

import math
import random
from bisect import bisect_right, insort
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from storage.history.records import AttemptSpan, Direction, StudyHistory, TrialRecord, TrialStateName

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 0.3, log=True),
    "hidden": IntDistribution(16, 256, log=True),
    "optimizer": CategoricalDistribution(["sgd", "momentum", "adam", "adamw"]),
    "momentum": FloatDistribution(0.0, 0.99),
    "dropout": FloatDistribution(0.0, 0.6),
    "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
    "layers": IntDistribution(1, 4),
    "norm": CategoricalDistribution([True, False]),
}


def trial(
    number: int,
    value: float | tuple[float, ...] | None = None,
    state: TrialStateName = "complete",
    *,
    params: Mapping[str, Any] | None = None,
    reports: Mapping[int, float] | None = None,
    at: float | None = None,
    seconds: float = 10.0,
    **more: Any,
) -> TrialRecord:
    """One trial by hand; it starts ``at`` seconds after the study and runs for ``seconds``."""
    begun = 10.0 * number if at is None else at
    ended = None if state in ("running", "waiting") else begun + seconds
    runner = more.pop("runner", "box:100/0")
    if state != "waiting":
        more.setdefault("spans", (span(1, state, begun, ended, runner),))
    return TrialRecord(
        number=number,
        state=state,
        values=None if value is None else value if isinstance(value, tuple) else (value,),
        params=params or {},
        reports=reports or {},
        started=START + timedelta(seconds=begun),
        finished=None if ended is None else START + timedelta(seconds=ended),
        runner=runner,
        **more,
    )


def span(
    number: int, state: str, start: float, end: float | None = None, lane: str = "box:100/0"
) -> AttemptSpan:
    """When one attempt worked, in seconds after the study's start."""
    ended = None if end is None else START + timedelta(seconds=end)
    return AttemptSpan(number, state, lane, START + timedelta(seconds=start), ended)


def study(
    *trials: TrialRecord,
    name: str = "digits",
    directions: tuple[Direction, ...] = ("maximize",),
    **more: Any,
) -> StudyHistory:
    """A study of these trials."""
    spec = more.pop("spec", {"study": name, "sampler": {"name": "tpe"}, "pruner": {"name": "asha"}})
    return StudyHistory(name, more.pop("state", "finished"), directions, spec, trials, **more)


@cache
def searched(
    n: int = 60,
    *,
    name: str = "digits-mlp",
    seed: int = 0,
    epochs: int = 20,
    prune: bool = True,
    minimize: bool = False,
    runners: int = 3,
    learns: bool = True,
    unfinished: int = 0,
    evaluated: bool = True,
) -> StudyHistory:
    """A search over eight parameters with rungs at 1, 3 and 9 epochs, a few failures and one lost worker.

    ``learns`` makes later trials sample nearer to the optimum, as TPE does.
    """
    rng = random.Random(seed)
    free = [0.0] * runners
    rungs: dict[int, list[float]] = {1: [], 3: [], 9: []}
    trials = []
    for number in range(n):
        runner = min(range(runners), key=free.__getitem__)
        params = _point(rng, 0.65 * min(1.0, number / (0.6 * n)) if learns else 0.0)
        final, speed = _quality(params, rng), 0.15 + 0.5 * rng.random()
        failed = rng.random() < 0.03
        reports: dict[int, float] = {}
        state: TrialStateName = "complete"
        last = number >= n - unfinished
        for epoch in range(1, epochs + 1):
            value = 0.1 + (final - 0.1) * (1 - math.exp(-speed * epoch)) + rng.gauss(0, 0.006)
            value = min(0.999, max(0.02, value))
            reports[epoch] = -math.log(value) if minimize else value
            if failed and epoch == 2:
                state = "failed"
                break
            if last and epoch >= 2 + number % 7:
                state = "running"
                break
            if prune and epoch in rungs:
                insort(rungs[epoch], value)
                better = len(rungs[epoch]) - bisect_right(rungs[epoch], value)
                if better > len(rungs[epoch]) / 3:
                    state = "pruned"
                    break
        seconds = len(reports) * (0.2 + params["hidden"] / 400) + 0.3
        best = min(reports.values()) if minimize else max(reports.values())
        attempts = 2 if rng.random() < 0.03 else 1
        box = f"box-{runner % 2}:{1200 + runner % 2}"
        begun, ended = free[runner], None if state == "running" else free[runner] + seconds
        spans = [span(attempts, state, begun, ended, f"{box}/{runner // 2}")]
        if attempts == 2:
            middle = begun + 0.4 * seconds
            spans = [
                span(1, "lost", begun, middle, f"{box}/{runner // 2}"),
                span(2, state, middle, ended, f"{box}/{runner // 2}"),
            ]
        trials.append(
            TrialRecord(
                number=number,
                state=state,
                values=(best,) if state == "complete" else None,
                params=params,
                distributions={key: SPACE[key] for key in params},
                reports=reports,
                metrics={
                    "loss" if minimize else "accuracy": dict(reports),
                    "accuracy" if minimize else "loss": {
                        e: math.exp(-v) if minimize else -math.log(v) for e, v in reports.items()
                    },
                    "train_loss": {e: 0.8 * (v if minimize else -math.log(v)) for e, v in reports.items()},
                },
                attempts=attempts,
                ticket=number,
                spans=tuple(spans),
                worker=box,
                runner=f"{box}/{runner // 2}",
                device="cpu",
                started=START + timedelta(seconds=free[runner]),
                finished=None if state == "running" else START + timedelta(seconds=free[runner] + seconds),
                error="RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x65 and 64x32)"
                if failed
                else None,
            )
        )
        free[runner] += seconds + 0.05
    return StudyHistory(
        name=name,
        state="running" if unfinished else "finished",
        directions=("minimize" if minimize else "maximize",),
        spec={
            "study": name,
            "objective": "objectives.classifier",
            "direction": "minimize" if minimize else "maximize",
            "sampler": {"name": "tpe" if learns else "random", "seed": seed},
            "pruner": {"name": "asha", "min_epochs": 1, "max_epochs": epochs} if prune else {"name": "none"},
            "space": {key: {} for key in SPACE},
            "fixed": {"dataset": "digits", "epochs": epochs},
        },
        trials=tuple(trials),
        created=START,
        budget_trials=n,
        winner_evaluation=evaluation(seed) if evaluated else None,
        test_evaluation=evaluation(seed + 1, "test") if evaluated else None,
    )


def two_directions(n: int = 60, seed: int = 0) -> StudyHistory:
    """Accuracy up, latency down."""
    rng = random.Random(seed)
    trials = []
    for number in range(n):
        params = _point(rng, 0.2)
        latency = 0.4 + params["hidden"] / 60 * params["layers"] + rng.random()
        trials.append(
            trial(
                number,
                (_quality(params, rng), latency),
                params=params,
                distributions={key: SPACE[key] for key in params},
            )
        )
    return study(*trials, name="accuracy-latency", directions=("maximize", "minimize"))


def evaluation(seed: int = 0, split: str = "validation", classes: int = 10) -> dict[str, Any]:
    """An evaluation in the form our objectives write."""
    rng = random.Random(seed)
    names = [str(index) for index in range(classes)]
    matrix = [[0] * classes for _ in names]
    for row in range(classes):
        for _ in range(36):
            right = rng.random() < 0.96
            matrix[row][row if right else rng.randrange(classes)] += 1
    per_class, roc, pr = [], [], []
    for index, name in enumerate(names):
        hit = matrix[index][index]
        precision = hit / max(1, sum(row[index] for row in matrix))
        recall = hit / sum(matrix[index])
        per_class.append(
            {
                "class": name,
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / (precision + recall),
                "support": sum(matrix[index]),
            }
        )
        fpr = [i / 100 for i in range(101)]
        power = 0.02 + 0.05 * rng.random()
        roc.append({"class": name, "auc": 1 / (1 + power), "fpr": fpr, "tpr": [x**power for x in fpr]})
        pr.append(
            {
                "class": name,
                "average_precision": 1 - power,
                "recall": fpr,
                "precision": [1 - power * x - 0.5 * x**12 * power for x in fpr],
            }
        )
    accuracy = sum(matrix[i][i] for i in range(classes)) / (36 * classes)
    return {
        "split": split,
        "task": "classification",
        "samples": 36 * classes,
        "metrics": {"accuracy": accuracy, "loss": 0.11, "macro_f1": accuracy - 0.002},
        "classes": names,
        "confusion_matrix": matrix,
        "per_class": per_class,
        "roc": roc,
        "pr": pr,
    }


def _point(rng: random.Random, pull: float) -> dict[str, Any]:
    def around(low: float, high: float, target: float) -> float:
        drawn = rng.uniform(low, high)
        return drawn + pull * (target - drawn)

    params: dict[str, Any] = {
        "lr": math.exp(around(math.log(1e-4), math.log(0.3), math.log(0.008))),
        "hidden": round(math.exp(around(math.log(16), math.log(256), math.log(150)))),
        "optimizer": "adam"
        if rng.random() < pull * 0.6
        else rng.choice(["sgd", "momentum", "adam", "adamw"]),
        "dropout": around(0, 0.6, 0.15),
        "weight_decay": math.exp(around(math.log(1e-6), math.log(1e-2), math.log(1e-4))),
        "layers": rng.randint(1, 4),
        "norm": rng.random() < 0.5,
    }
    if params["optimizer"] == "momentum":
        params["momentum"] = around(0.0, 0.99, 0.9)
    return params


def _quality(params: Mapping[str, Any], rng: random.Random) -> float:
    off = abs(math.log(params["lr"] / 0.008)) / math.log(80)
    value = 0.985 - 0.45 * off**2 - 0.03 * abs(math.log(params["hidden"] / 150))
    value -= 0.15 * max(0.0, params["dropout"] - 0.25) ** 2 + 0.01 * abs(params["layers"] - 2)
    value -= {"sgd": 0.06, "momentum": 0.02}.get(params["optimizer"], 0.0)
    return min(0.992, max(0.1, value + rng.gauss(0, 0.008)))
