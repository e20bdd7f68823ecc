"""Every option of every row of docs/training.md, used on real data, from Python and from a study file.

A design of few trials: trial i takes option i (modulo their number) of every setting, so as many trials as
the longest list has options use each option at least once.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from sklearn.datasets import load_diabetes

from objectives import classifier, config, regressor, text_classifier
from objectives.config import TrainingConfig
from objectives.metrics import METRICS, POSITIVE
from objectives.standalone import LocalTrial
from tests.support.command import look, run_hpo

Options = dict[str, list[Any]]

LEARNING: Options = {
    "optimizer": list(get_args(config.OptimizerName)),
    "schedule": list(get_args(config.ScheduleName)),
    "warmup_epochs": [0, 0.5],
    "weight_decay": [0.0, 1e-3],
    "decay_all": [True, False],
    "l1": [0.0, 1e-5],
    "l2": [0.0, 1e-4],
    "accumulate": [1, 2],
    "clip_norm": [None, 1.0],
    "clip_value": [None, None, 0.5],
    "init": list(get_args(config.Initialisation)),
    "activation": list(get_args(config.Activation)),
    "preparation": ["standardize", "minmax"],
    "dropout": [0.0, 0.1],
}
CLASSIFICATION: Options = LEARNING | {
    "loss": ["cross_entropy", "binary_cross_entropy", "hinge"],
    "class_weights": ["none", "balanced"],
    "objective": [
        name
        for name, metric in METRICS.items()
        if metric.task == "classification" and metric.maximize and name not in POSITIVE
    ],
    "patience": [None, 3],
    "converged_epochs": [None, None, 3],
    "keep": ["best", "last"],
}
TABLES = CLASSIFICATION | {
    "dataset": ["breast_cancer", "wine"],
    "model": ["mlp", "linear"],
    "depth": [1, 2, 3],
    "batch_norm": [False, True, True],
    "batch_size": [32, "full", 64, 16, 1],
}
IMAGES = CLASSIFICATION | {
    "model": ["cnn"],
    "blocks": [1, 2],
    "pooling": ["max", "avg", "none"],
    "kernel_size": [1, 3, 5],
    "batch_norm": [False, True],
    "crop": [0, 1],
    "flip": [0.0, 0.0, 0.1],
    "rotation": [0.0, 0.0, 0.0, 10.0],
    "erasing": [0.0, 0.0, 0.2],
    "mixup": [0.0, 0.2],
    "storage": ["memory", "auto", "loader"],
    "channels_last": [False, True],
    "amp": ["none", "none", "none", "bf16"],
    "frozen_epochs": [0, 0, 1],
    "backbone_lr": [1.0, 0.5],
}
OWN: Options = {  # what is about one class, and parts by import path
    "objective": sorted(POSITIVE),
    "threshold": ["largest", "best", 0.4],
    "sampling": ["uniform", "balanced"],
    "loss": ["cross_entropy", "torch.nn.functional:cross_entropy", "torch.nn:MultiMarginLoss"],
    "optimizer": ["adam", "torch.optim:RAdam"],
    "schedule": ["cosine", "torch.optim.lr_scheduler:ExponentialLR"],
}
REGRESSION = LEARNING | {
    "loss": ["mse", "huber"],
    "model": ["linear", "mlp"],
    "objective": ["rmse", "mae", "mse", "loss"],
}
TEXTS: Options = {
    "model": ["bag", "rnn", "lstm", "gru"],
    "tokens": ["words", "words", "words", "characters"],
    "min_count": [1, 2],
    "vocabulary": [20000, 50],
    "embedding": [8, 16],
    "depth": [1, 2],
    "dropout": [0.0, 0.1],
}
FILES: Options = {
    "encoding": ["one_hot", "embedding"],
    "preparation": ["standardize", "minmax", "none"],
    "model": ["linear", "mlp", "mlp"],
}
LINES = str(Path("objectives/studies/comparisons/lines.csv").absolute())
STUDIES: dict[str, tuple[Any, Options, dict[str, Any]]] = {
    "tables": (classifier, TABLES, {"epochs": 3, "hidden": 8, "train_limit": 100}),
    "images": (
        classifier,
        IMAGES,
        {
            "dataset": "digits",
            "epochs": 2,
            "channels": 4,
            "hidden": 16,
            "train_limit": 400,
            "loader_workers": 0,
        },
    ),
    "own": (
        classifier,
        OWN,
        {
            "dataset": "breast_cancer",
            "positive_class": "malignant",
            "beta": 2.0,
            "epochs": 2,
            "hidden": 8,
            "schedule_args": {"gamma": 0.9},
        },
    ),
    "texts": (text_classifier, TEXTS, {"file": LINES, "epochs": 2, "hidden": 8, "max_length": 12}),
    "files": (
        regressor,
        FILES,
        {"dataset": "table", "file": "patients.csv", "target_column": "target", "categorical": ["sex"]}
        | {"split": "time", "time_column": "age", "epochs": 3, "hidden": 8},
    ),
    "numbers": (regressor, REGRESSION, {"dataset": "diabetes", "epochs": 4, "hidden": 8}),
}
RATES = {"sgd": 0.05, "adagrad": 0.05, "adadelta": 1.0}


@pytest.fixture(autouse=True)
def patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load_diabetes(as_frame=True, scaled=False).frame.to_csv("patients.csv", index=False)


def design(options: Options) -> list[dict[str, Any]]:
    """Points in which every option occurs and that do not contradict themselves."""
    points = []
    for i in range(max(map(len, options.values()))):
        point = {name: values[i % len(values)] for name, values in options.items()}
        if point.get("batch_size") == 1:
            point["batch_norm"] = False
        if point.get("schedule") == "multistep":
            point["milestones"] = [1]
        point["lr"] = RATES.get(point.get("optimizer", ""), 0.01)
        points.append({name: value for name, value in point.items() if value is not None})
    return points


@pytest.mark.parametrize("study", STUDIES)
def test_the_design_uses_every_option(study: str) -> None:
    _, options, _ = STUDIES[study]
    points = design(options)
    for name, values in options.items():
        assert {repr(value) for value in values if value is not None} <= {
            repr(point.get(name)) for point in points
        }, name


@pytest.mark.parametrize("study", STUDIES)
def test_every_option_trains_and_lowers_the_training_loss(study: str) -> None:
    module, options, fixed = STUDIES[study]
    lowered = 0
    points = design(options)
    for point in points:
        trial = LocalTrial({**fixed, **point})
        module.objective(trial)
        losses = [log["train_loss"] for log in trial.logs.values()]
        lowered += losses[-1] < losses[0] or len(losses) == 1
        assert json.loads(trial.read_artifact("evaluation.json"))["samples"] > 0
    assert lowered >= 0.8 * len(points)  # mixup, dropout and restarts may raise it over two epochs


@pytest.mark.parametrize("study", STUDIES)
def test_every_option_is_reached_from_a_study_file(study: str, tmp_path: Path) -> None:
    """Every setting is a parameter of the space; the points are enqueued, one trial each."""
    module, options, fixed = STUDIES[study]
    points = [
        {name: point[name] for name in point if name not in ("milestones", "lr")} for point in design(options)
    ]
    space: dict[str, Any] = {}
    for name in options:
        choices = list(dict.fromkeys(point[name] for point in points if name in point))
        space[name] = {"type": "categorical", "choices": choices}
    for point in points:  # options that mean "unset" take the next one's value
        for name in options:
            point.setdefault(name, space[name]["choices"][0])
    spec = {
        "study": study,
        "objective": module.__name__,
        "direction": "minimize" if module is regressor else "maximize",
        "sampler": {"name": "random", "seed": 0},
        "pruner": {"name": "none"},
        "budget": {"trials": len(points)},
        "enqueue": points,
        "space": space,
        "fixed": {**fixed, "lr": 0.01, "milestones": [1]},
    }
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    run_hpo(
        "run", path, "--runners", "1", "--quiet", "--no-report", "--no-evaluate", cwd=tmp_path, timeout=240
    ).check()
    trials = look("trials", study, "--format", "json", cwd=tmp_path).check().json
    assert [trial["state"] for trial in trials] == ["complete"] * len(points)
    for trial, point in zip(sorted(trials, key=lambda trial: trial["number"]), points, strict=True):
        assert trial["params"] == point


def test_every_setting_stands_in_the_documentation() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "training.md").read_text()
    named = set(re.findall(r"`([a-z_0-9]+)`", text))
    assert set(TrainingConfig.model_fields) <= named


def test_every_file_the_documentation_names_exists() -> None:
    root = Path(__file__).parents[2]
    text = root.joinpath("docs", "training.md").read_text()
    for name in set(re.findall(r"`((?:objectives|tests)/[\w/.]+)`", text)):
        assert (root / name).exists(), name
