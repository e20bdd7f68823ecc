"""Networks that were trained before: a new head, a backbone that stays, or learns more slowly."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from objectives import classifier
from objectives.errors import TrainingError
from objectives.models.transfer import backbone, head_of
from objectives.standalone import LocalTrial
from objectives.train import train_epoch
from tests.objectives.helpers import QUICK, classify, prepared

RESNET: dict[str, Any] = {"dataset": "digits", "model": "resnet18", "train_limit": 60, "batch_size": 30}


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Weights of a small CNN that learnt digits."""
    _, trial = classify(model="cnn", channels=4, batch_norm=True, epochs=2)
    (tmp_path / "before.pt").write_bytes(trial.read_artifact("model.pt"))
    return tmp_path / "before.pt"


def test_a_frozen_backbone_stays_bit_for_bit_and_then_learns_at_its_share(before: Path) -> None:
    settings = {"model": "cnn", "channels": 4, "batch_norm": True, "pretrained": str(before)}
    settings |= {"frozen_epochs": 1, "backbone_lr": 0.1, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.01}
    setup = prepared(**settings)
    head = head_of(setup.model)
    old = torch.load(before, weights_only=True)
    start = snapshot(setup.model)
    for name, value in start.items():
        assert torch.equal(value, old[name]) != name.startswith(head), name
    trial = LocalTrial(QUICK)
    train_epoch(trial, setup, 1)
    frozen = snapshot(setup.model)
    assert {name for name in start if not torch.equal(start[name], frozen[name])} == {
        f"{head}.weight",
        f"{head}.bias",
    }
    train_epoch(trial, setup, 2)
    moved = snapshot(setup.model)
    assert all(not torch.equal(moved[name], frozen[name]) for name in moved)
    assert [group["lr"] for group in setup.optimizer.param_groups] == pytest.approx([0.1, 0.01])


def test_a_resumed_training_is_frozen_and_let_go_as_an_unbroken_one(before: Path) -> None:
    settings = {
        "model": "cnn",
        "channels": 4,
        "batch_norm": True,
        "pretrained": str(before),
        "frozen_epochs": 2,
    }
    settings |= {"backbone_lr": 0.3, "epochs": 4, "checkpoint_every": 1, "keep": "last"}
    _, whole = classify(**settings)
    for stop in (1, 2, 3):
        _, first = classify(**settings, refit_epochs=None, target=None)
        broken = LocalTrial({**QUICK, **settings}, on_check=None)
        calls = 0

        def check(stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls > stop * 5 + 2:
                raise KeyboardInterrupt

        broken._on_check = check
        with pytest.raises(KeyboardInterrupt):
            classifier.objective(broken)
        assert broken.checkpoint.latest == stop
        broken._on_check = None
        classifier.objective(broken)
        assert (
            broken.read_artifact("model.pt")
            == whole.read_artifact("model.pt")
            == first.read_artifact("model.pt")
        )


def test_torchvisions_networks_take_weights_from_a_file_and_a_new_head(tmp_path: Path) -> None:
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    setup = prepared(**RESNET, pretrained=str(tmp_path / "resnet18.pth"), frozen_epochs="all")
    assert torch.equal(setup.model.conv1.weight, network.conv1.weight)
    assert setup.model.fc.out_features == 10
    trial = LocalTrial({**RESNET, "epochs": 1, "frozen_epochs": "all", "lr": 0.01})
    classifier.objective(trial)
    state = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
    classifier.export(trial, state, tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**RESNET, "pretrained": "gone.pth"}, "pretrained: there is no file"),
        ({**RESNET, "pretrained": __file__}, "holds no weights"),
        ({**RESNET, "dataset": "wine"}, "resnet18 needs images of 1 or 3 channels; wine has"),
        ({**RESNET, "model": "resnet81"}, "did you mean 'resnet18'"),
        ({**RESNET, "model": "squeezenet1_0"}, "does not end in a linear layer"),
        (
            {"frozen_epochs": -1},
            "frozen_epochs: input should be greater than or equal to 0 or input should be 'all'",
        ),
    ],
)
def test_what_cannot_be_started_from_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        classify(**settings)


def test_weights_of_another_model_are_told(before: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"is of another model: .* missing or of another shape, as 0.weight"
    ):
        classify(model="cnn", channels=8, batch_norm=True, pretrained=str(before))


def test_weights_that_the_hub_does_not_give_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With no network, and an empty store: which model, and what to do."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(
        TrainingError, match=r"could not be downloaded .* name a file: pretrained: resnet18.pth"
    ):
        classify(**RESNET, pretrained="hub")
    assert backbone(prepared(**RESNET).config, (1, 8, 8), 3)(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
