"""The trial that needs no service, and objectives in plain Optuna."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from objectives.classifier import objective
from objectives.errors import ConfigError
from objectives.protocol import Checkpoint, Trial
from objectives.standalone import LocalCheckpoint, LocalTrial
from tests.objectives.helpers import QUICK, classify


def test_local_trial_keeps_the_protocol() -> None:
    trial = LocalTrial()
    assert isinstance(trial, Trial)
    assert isinstance(trial.checkpoint, Checkpoint)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, objectives; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_training_imports_nothing_dear_but_torch() -> None:
    """Each of these takes a runner's start half a second to two, and digits need none, alone or in lanes."""
    code = """
import sys
from objectives.classifier import lane_key, objective
from objectives.lanes import train_settings
from objectives.standalone import LocalTrial

settings = {"dataset": "digits", "train_limit": 100, "epochs": 1, "objective": ["accuracy", "auc"]}
objective(LocalTrial(settings | {"optimizer": "adamw"}))
train_settings([settings | {"optimizer": name} for name in ("sgd", "adam")])
lane_key({"dataset": "digits", "model": "cnn"})
dear = {"torch._dynamo", "torchvision", "sympy", "triton", "sklearn", "scipy", "pandas", "sqlalchemy"}
sys.exit(str(dear & set(sys.modules)) if dear & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_suggestions_come_from_the_config_then_from_the_seed() -> None:
    trial = LocalTrial({"lr": 0.5}, seed=1)
    assert trial.suggest_float("lr", 0.0, 1.0) == 0.5
    drawn = trial.suggest_int("width", 3, 9)
    assert 3 <= drawn <= 9
    assert trial.suggest_int("width", 3, 9) == drawn
    assert LocalTrial(seed=1).suggest_int("width", 3, 9) == drawn
    assert trial.params == {"lr": 0.5, "width": drawn}
    assert 1e-5 <= trial.suggest_float("wd", 1e-5, 1e-1, log=True) <= 1e-1
    assert trial.suggest_float("drop", 0.0, 0.5, step=0.25) in (0.0, 0.25, 0.5)
    assert trial.suggest_categorical("act", ["relu", "tanh"]) in ("relu", "tanh")


def test_checkpoint_returns_the_newest_state() -> None:
    checkpoint = LocalCheckpoint()
    assert checkpoint.latest is None
    assert checkpoint.load() is None
    for step in (1, 11, 2):
        checkpoint.save({"step": step, "weight": torch.full((2,), float(step))}, step)
    assert checkpoint.latest == 11
    state = checkpoint.load()
    assert state is not None
    assert state["step"] == 11
    assert torch.equal(state["weight"], torch.full((2,), 11.0))


def test_saved_state_is_a_copy() -> None:
    checkpoint = LocalCheckpoint()
    weight = torch.zeros(2)
    checkpoint.save({"weight": weight}, 1)
    weight.add_(1)
    state = checkpoint.load()
    assert state is not None
    assert torch.equal(state["weight"], torch.zeros(2))


def test_an_objective_runs_in_plain_optuna_with_pruning() -> None:
    """Reports and pruning reach the Optuna trial; what it suggests reaches the objective."""

    def run(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        value = objective(LocalTrial(QUICK | {"lr": trial.params["lr"]}, optuna_trial=trial))
        assert isinstance(value, float)
        return value

    pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(run, n_trials=2)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.PRUNED] * 2
    assert [sorted(trial.intermediate_values) for trial in study.trials] == [[1, 2]] * 2


def test_a_trial_keeps_checkpoints_and_artifacts_in_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trial = LocalTrial({**QUICK, "checkpoint_every": 1})
    objective(trial)
    assert trial.checkpoint.latest == QUICK["epochs"]
    assert sorted(trial.artifacts) == ["evaluation.json", "model.pt"]
    assert trial.read_artifact("model.pt") == trial.artifacts["model.pt"]
    assert list(tmp_path.iterdir()) == []


def test_reports_are_one_based_and_losses_are_logged() -> None:
    value, trial = classify(epochs=3)
    assert list(trial.reports) == [1, 2, 3]
    assert value == max(trial.reports.values())
    assert {"train_loss", "validation_loss", "lr"} <= trial.logs[2].keys()


@pytest.mark.parametrize(
    ("directions", "settings", "message"),
    [
        (["minimize"], {}, "the study would minimize accuracy; set its direction to maximize"),
        (["maximize"], {"objective": "loss"}, "would maximize loss; set its direction to minimize"),
        (["maximize", "minimize"], {}, r"1 metric\(s\), accuracy, but the study has 2 direction"),
        (["maximize"], {"objective": ["accuracy", "flops"]}, r"2 metric\(s\), accuracy, flops, but .* 1 dir"),
    ],
)
def test_a_study_that_would_search_for_the_worst_is_refused(
    directions: list[str], settings: dict[str, Any], message: str
) -> None:
    study = optuna.create_study(directions=directions)
    trial = LocalTrial({**QUICK, **settings}, optuna_trial=study.ask())
    with pytest.raises(ConfigError, match=message):
        objective(trial)


def test_the_objective_of_the_documentation_learns() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "training.md").read_text()
    found = re.search(r"```python\n(import optuna\nimport torch.*?)```", text, re.DOTALL)
    assert found is not None
    code = found[1]
    names: dict[str, Any] = {}
    exec(code, names)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: names["objective"](LocalTrial(optuna_trial=trial)), n_trials=3)
    assert study.best_value > 0.8
