"""Settings that make training faster change the time, not what is learnt."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from objectives import classifier
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
    assert trial.user_attrs["training"]["environment"]["device"] == "cuda:0"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
def test_out_of_gpu_memory_names_the_batch_and_the_memory() -> None:
    from objectives.errors import OutOfMemoryError

    settings = {**QUICK, "widths": [2_000_000, 200_000], "batch_size": 64}
    with pytest.raises(OutOfMemoryError, match=r"batch_size 64 \(this process holds .* GiB are free\)"):
        classifier.objective(LocalTrial(settings, device="cuda:0"))
