"""Settings that make training faster change the time, not what is learnt."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from objectives import classifier, imports
from objectives.standalone import LocalTrial
from tests.objectives.helpers import QUICK, classify, prepared
from tests.support.skips import NO_GPU

DIGITS: dict[str, Any] = {"epochs": 5, "train_limit": 800, "model": "cnn", "channels": 6, "hidden": 32}


@pytest.mark.parametrize("settings", [{"amp": "bf16"}, {"amp": "fp16"}, {"channels_last": True}])
def test_accuracy_is_kept_within_noise(settings: dict[str, Any]) -> None:
    plain, _ = classify(**DIGITS)
    fast, _ = classify(**DIGITS, **settings)
    assert plain > 0.9
    assert fast > plain - 0.03


def test_autocast_runs_the_model_in_the_smaller_type() -> None:
    setup = prepared(amp="bf16")
    inputs, _ = next(setup.batches.in_order())
    with setup.autocast():
        assert setup.forward(inputs).dtype == torch.bfloat16
    with prepared().autocast():
        assert setup.forward(inputs).dtype == torch.float32


def test_a_compiled_model_learns_the_same_and_saves_plain_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, but without the minute a C++ compiler needs."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, _ = classify(epochs=2)
    compiled = LocalTrial({**QUICK, "epochs": 2, "compile": True})
    value = classifier.objective(compiled)
    assert value == pytest.approx(plain, abs=0.02)
    state = compiled.checkpoint.load()
    assert state is not None
    assert list(state["model"]) == ["1.weight", "1.bias", "3.weight", "3.bias"]


VIEWING = """
from torch import nn

class Viewing(nn.Module):
    def __init__(self, outputs, view=True):
        super().__init__()
        self.convolution, self.head, self.view = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, outputs), view

    def forward(self, images):
        images = self.convolution(images)
        return self.head(images.view(len(images), -1) if self.view else images.flatten(1))
"""


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"model": "cnn", "channels": 8}, True),
        ({"model": "cnn", "channels": 4}, False),
        ({"model": "mlp"}, False),
        ({"model": "cnn", "channels": 8, "channels_last": False}, False),
        ({"model": "cnn", "channels": 4, "channels_last": True}, True),
        ({"dataset": "wine", "train_limit": None, "channels_last": True}, False),
        ({"model": "viewing_net.py:Viewing"}, False),
        ({"model": "viewing_net.py:Viewing", "view": False}, True),
    ],
)
def test_channels_come_last_where_that_is_faster_and_the_model_takes_it(
    settings: dict[str, Any], used: bool, tmp_path: Path
) -> None:
    (tmp_path / "viewing_net.py").write_text(VIEWING)
    with imports.at(imports.Home(tmp_path)):
        setup = prepared(**settings)
        classify(epochs=1, **settings)
    assert setup.config.channels_last is used
    inputs, _ = next(setup.batches.shuffled(1))
    weights = [weight for weight in setup.model.parameters() if weight.ndim == 4]
    for tensor in [*weights, *([inputs] if inputs.ndim == 4 else [])]:
        if min(tensor.shape[1:]) > 1:  # else both layouts are the same
            assert tensor.is_contiguous(memory_format=torch.channels_last) is used


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "adagrad"])
@pytest.mark.parametrize("layouts", [(False, True), (True, False)])
def test_a_checkpoint_of_one_layout_goes_on_in_the_other(optimizer: str, layouts: tuple[bool, bool]) -> None:
    """As one that a version without channels_last: auto has left."""
    settings = {
        **QUICK,
        **DIGITS,
        "epochs": 4,
        "optimizer": optimizer,
        "checkpoint_every": 1,
        "batch_norm": True,
    }
    unbroken, broken = (
        LocalTrial(settings),
        LocalTrial({**settings, "epochs": 2, "channels_last": layouts[0]}),
    )
    classifier.objective(unbroken)
    classifier.objective(broken)
    state = broken.checkpoint.load()
    assert state is not None
    state["progress"]["stopped"] = None
    resumed = LocalTrial({**settings, "channels_last": layouts[1]})
    resumed.checkpoint.save(state, 2)
    classifier.objective(resumed)
    for epoch in (3, 4):
        assert resumed.logs[epoch]["train_loss"] == pytest.approx(
            unbroken.logs[epoch]["train_loss"], rel=0.02
        )


def test_every_trial_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models share the code that is compiled, and PyTorch gives up after eight versions of it."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Any:
        compiled.append(hidden)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    counts = []
    for hidden in range(8, 20):
        compiled.clear()
        classify(epochs=1, compile=True, hidden=hidden)
        counts.append(len(compiled))
    assert len(set(counts)) == 1
    assert counts[0] > 0


def test_a_larger_evaluation_batch_changes_nothing() -> None:
    small, _ = classify(eval_batch_size=7)
    large, _ = classify(eval_batch_size=10_000)
    assert small == large


def test_deterministic_kernels_are_switched_on_and_off_again() -> None:
    classify(deterministic=True, epochs=1)
    assert torch.are_deterministic_algorithms_enabled()
    classify(epochs=1)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize(
    "settings", [{}, {"amp": "bf16"}, {"amp": "fp16"}, {"channels_last": True, "tf32": True}]
)
def test_a_gpu_learns_what_a_cpu_does(settings: dict[str, Any]) -> None:
    trial = LocalTrial({**QUICK, **DIGITS, **settings}, device="cuda:0")
    value = classifier.objective(trial)
    assert isinstance(value, float)
    assert value > 0.9
    assert trial.user_attrs["origin"]["environment"]["device"] == "cuda:0"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
def test_out_of_gpu_memory_names_the_batch_and_the_memory() -> None:
    from objectives.errors import OutOfMemoryError

    settings = {**QUICK, "widths": [2_000_000, 200_000], "batch_size": 64}
    with pytest.raises(OutOfMemoryError, match=r"batch_size 64 \(this process holds .* GiB are free\)"):
        classifier.objective(LocalTrial(settings, device="cuda:0"))
