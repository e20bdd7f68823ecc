"""Models: shapes, initialisation, sizes, and what cannot be built."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from objectives.config import TrainingConfig
from objectives.errors import ConfigError, ModelError
from objectives.models.build import build, probe
from objectives.models.size import count_flops, count_layer_flops, count_parameters
from tests.objectives.helpers import classify, prepared


def made(shape: tuple[int, ...] = (1, 8, 8), outputs: int = 10, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(TrainingConfig.read(settings), shape, outputs)


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


def test_a_linear_model_is_one_affine_map() -> None:
    assert kinds(made(model="linear")) == ["Flatten", "Linear"]


def test_an_mlp_has_its_depth_width_norm_and_dropout() -> None:
    model = made(model="mlp", depth=2, hidden=12, dropout=0.5, batch_norm=True, activation="tanh")
    hidden = ["Linear", "BatchNorm1d", "Tanh", "Dropout"]
    assert kinds(model) == ["Flatten", *hidden, *hidden, "Linear"]
    widths = [module.out_features for module in model.modules() if isinstance(module, nn.Linear)]
    assert widths == [12, 12, 10]


def test_widths_name_every_layer() -> None:
    model = made(model="mlp", widths=[20, 7])
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [20, 7, 10]


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "identity"]
)
@pytest.mark.parametrize("init", ["default", "normal", "xavier", "kaiming"])
def test_every_activation_goes_with_every_initialisation(activation: str, init: str) -> None:
    model = made(activation=activation, init=init)
    probe(model, (1, 8, 8), 10)


def test_a_cnn_doubles_its_channels_and_halves_the_image() -> None:
    model = made(model="cnn", channels=4, blocks=2, hidden=6, batch_norm=True, dropout=0.2, pooling="avg")
    block = ["Conv2d", "BatchNorm2d", "ReLU", "AvgPool2d"]
    head = ["Flatten", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert kinds(model) == [*block, *block, *head]
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [4, 8]
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    assert first.in_features == 8 * 2 * 2


def test_without_pooling_the_image_keeps_its_size() -> None:
    model = made((3, 5, 7), model="cnn", channels=[2, 2, 2], pooling="none", kernel_size=5)
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    assert first.in_features == 2 * 5 * 7
    probe(model, (3, 5, 7), 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 9}, r"kernel_size 9 is larger than the 8 x 8 image that block 1 sees"),
        ({"blocks": 5, "kernel_size": 1}, r"block 4 cannot halve a 1 x 1 image; use fewer blocks \(5"),
        ({"blocks": 3, "kernel_size": 5}, r"larger than the 4 x 4 image that block 2"),
    ],
)
def test_a_cnn_that_does_not_fit_the_image_says_why(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        made(model="cnn", **settings)


def test_a_cnn_needs_images() -> None:
    with pytest.raises(ModelError, match="a cnn needs images; wine has 13 features"):
        classify(dataset="wine", model="cnn", train_limit=None)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no model 'transformer'; there are linear, mlp, cnn"):
        made(model="transformer")


def first_weight(model: nn.Module) -> torch.Tensor:
    return next(parameter for parameter in model.parameters() if parameter.ndim == 2).detach()


def test_initialisations_have_the_variance_their_papers_give() -> None:
    shape, hidden = (400,), 300
    normal = first_weight(made(shape, hidden=hidden, init="normal", init_std=0.3))
    assert float(normal.std()) == pytest.approx(0.3, rel=0.02)
    xavier = first_weight(made(shape, hidden=hidden, init="xavier"))
    assert float(xavier.std()) == pytest.approx(math.sqrt(2 / (400 + 300)), rel=0.02)
    kaiming = first_weight(made(shape, hidden=hidden, init="kaiming"))
    assert float(kaiming.std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)


@pytest.mark.parametrize("init", ["xavier", "kaiming"])
def test_glorots_and_hes_initialisations_start_biases_at_zero(init: str) -> None:
    model = made(init=init)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


def test_a_normal_initialisation_leaves_biases_as_pytorch_draws_them() -> None:
    torch.manual_seed(0)
    plain = made()
    torch.manual_seed(0)
    normal = made(init="normal")
    for one, other in zip(plain.modules(), normal.modules(), strict=True):
        if isinstance(one, nn.Linear):
            assert isinstance(other, nn.Linear)
            assert one.bias.any()
            assert torch.equal(one.bias, other.bias)


def test_the_trials_seed_decides_the_initial_weights() -> None:
    one, other = prepared(), prepared()
    assert torch.equal(first_weight(one.model), first_weight(other.model))


def test_parameters_and_operations_are_counted() -> None:
    model = made(model="cnn", channels=4, blocks=1, hidden=6)
    assert count_parameters(model) == (9 * 4 + 4) + (64 * 6 + 6) + (60 + 10)
    expected = 2 * (9 * 4 * 64 + 64 * 6 + 60)
    assert count_flops(model, (1, 8, 8), torch.device("cpu")) == expected
    assert count_layer_flops(model, (1, 8, 8), torch.device("cpu")) == expected


def test_a_model_that_cannot_take_the_data_is_found_before_training() -> None:
    with pytest.raises(ModelError, match=r"cannot take inputs of shape \[1, 8, 8\]"):
        probe(nn.Linear(5, 10), (1, 8, 8), 10)


def test_pooling_before_what_never_falls_changes_no_bit() -> None:
    model: Any = made(model="cnn", channels=4, batch_norm=True)
    assert kinds(model)[:4] == ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
    usual = nn.Sequential(*(model[i] for i in (0, 1, 3, 2, 4, 5, 7, 6, *range(8, len(model)))))
    assert kinds(usual)[:8] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 2
    images, gradients = torch.randn(16, 1, 8, 8), []
    for each in (model, usual):
        each.zero_grad()
        each(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    assert all(map(torch.equal, *gradients))
    assert kinds(made(model="cnn", activation="tanh"))[:3] == ["Conv2d", "Tanh", "MaxPool2d"], (
        "bits may differ"
    )
