"""Settings: what is refused, and that the refusal says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from objectives import classifier, regressor
from objectives.config import TrainingConfig
from objectives.errors import ConfigError
from tests.objectives.helpers import classify

OWN_MODEL = """
from torch import nn

def make(sample_shape, outputs, width=8):
    pixels = sample_shape[-1] * sample_shape[-2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.Linear(width, outputs))

def wrong(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs + 1))

def no_module():
    return 3

number = 3
"""


@pytest.fixture
def own_model(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(OWN_MODEL)
    return str(path)


def test_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown training setting 'epohcs'; did you mean 'epochs'\?"):
        TrainingConfig.read({"epohcs": 3})


def test_every_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'epohcs'.*'xyzzy'"):
        TrainingConfig.read({"epohcs": 3, "xyzzy": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr: input should be greater than 0"),
        ({"lr": "fast"}, "lr: input should be a valid number"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1"),
        ({"optimizer": "adma"}, "optimizer: .*'adam'.*got 'adma'"),
        ({"dropout": 1.0}, "dropout: .*less than 1"),
        ({"batch_size": 0}, "batch_size: input should be greater than 0"),
        ({"kernel_size": 4}, "kernel_size: must be odd"),
        ({"batch_norm": True, "batch_size": 1}, "batch_norm needs batches of at least 2"),
        ({"schedule": "multistep"}, "needs milestones"),
        ({"warmup_epochs": 5, "epochs": 5}, "warmup_epochs .5. must be smaller than epochs .5."),
        ({"channels": [8, 16], "blocks": 3}, "channels lists 2 blocks but blocks is 3"),
        ({"checkpoint_every": -1}, "checkpoint_every: .*greater than or equal to 0"),
        ({"objective": []}, "at least 1 item"),
    ],
)
def test_a_wrong_value_names_the_field_and_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.read(settings)


def test_model_arguments_can_be_given_singly_so_that_they_can_be_searched() -> None:
    config = TrainingConfig.read({"model": "m", "model_args": {"a": 1}, "model_args.width": 32})
    assert config.model_args == {"a": 1, "width": 32}


def test_arguments_of_the_users_own_model_stand_beside_the_settings(own_model: str) -> None:
    config = TrainingConfig.read({"model": f"{own_model}:make", "width": 32})
    assert config.model_args == {"width": 32}


def test_a_misspelt_setting_is_still_refused_with_a_model_of_ones_own(own_model: str) -> None:
    with pytest.raises(ConfigError, match="'epohcs'"):
        TrainingConfig.read({"model": f"{own_model}:make", "epohcs": 3})


def test_a_model_of_the_users_own_is_trained(own_model: str) -> None:
    value, trial = classify(model=f"{own_model}:make", width=12)
    assert value > 0.5
    assert trial.user_attrs["training"]["parameters"] == 64 * 12 + 12 + 12 * 10 + 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "has no 'absent'"),
        ("number", "not a callable, named 'number'"),
        ("no_module", "returned int, not a torch.nn.Module"),
        ("wrong", r"returns \[11\] per sample; 10 outputs are needed"),
    ],
)
def test_a_model_of_ones_own_that_cannot_be_used_says_why(own_model: str, name: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        classify(model=f"{own_model}:{name}")


def test_a_model_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"there is no file '/no/such\.py'"):
        TrainingConfig.read({"model": "/no/such.py:make", "width": 1})


def test_wrong_model_arguments_are_refused(own_model: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called with"):
        classify(model=f"{own_model}:make", model_args={"depth": 3})


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'acuracy'; did you mean 'accuracy'\?"):
        classify(objective="acuracy")


def test_a_metric_of_the_other_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="no classification has the metric 'rmse'"):
        classify(objective="rmse")


def test_a_study_is_checked_before_its_first_trial() -> None:
    classifier.check({"epochs": 3}, ["lr", "model_args.width"])
    with pytest.raises(ConfigError, match="'epohcs'; did you mean 'epochs'"):
        classifier.check({"epohcs": 3}, ["lr"])
    with pytest.raises(ConfigError, match="'hiden'; did you mean 'hidden'"):
        classifier.check({}, ["hiden"])
    with pytest.raises(ConfigError, match="lr: input should be greater than 0"):
        regressor.check({"lr": -1}, [])


@pytest.mark.parametrize("searched", ["loss", "label_smoothing", "class_weights"])
@pytest.mark.parametrize("objective", ["loss", ["loss", "flops"], ("accuracy", "loss")])
def test_losses_that_the_space_defines_anew_are_not_compared(searched: str, objective: Any) -> None:
    with pytest.raises(ConfigError, match=f"with {searched} in the space .* use log_loss"):
        classifier.check({"objective": objective}, ["lr", searched])


@pytest.mark.parametrize("searched", ["loss", "huber_delta"])
def test_a_regressions_losses_point_to_rmse(searched: str) -> None:
    with pytest.raises(ConfigError, match=f"with {searched} in the space .* use rmse or mae"):
        regressor.check({"objective": "loss"}, [searched])


def test_the_loss_of_one_kind_may_be_searched_for() -> None:
    classifier.check({"objective": "loss", "label_smoothing": 0.1}, ["lr", "mixup", "dropout"])
    classifier.check({"objective": "log_loss"}, ["loss", "label_smoothing"])
    classifier.check({}, ["loss", "label_smoothing", "class_weights"])


def test_a_rule_that_a_searched_value_may_satisfy_is_left_to_the_trial() -> None:
    classifier.check({"schedule": "multistep"}, ["milestones"])


def test_arguments_of_ones_own_model_may_be_searched(own_model: str) -> None:
    classifier.check({"model": f"{own_model}:make"}, ["width"])
    with pytest.raises(ConfigError, match="'wdith'"):
        classifier.check({"model": f"{own_model}:make"}, ["wdith"])
