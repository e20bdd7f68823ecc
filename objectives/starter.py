"""A first objective: a small network that learns to read handwritten digits. Make it your own.

`trial.config` holds this trial's parameters (`space` in the study file) and what is `fixed` for all of them.
"""

from typing import Any

import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def objective(trial: Any) -> float:
    """Train as `trial.config` says; return the accuracy on the validation set."""
    config = trial.config
    torch.manual_seed(trial.seed)
    train_x, train_y = digits("train")
    valid_x, valid_y = digits("validation")
    model = network(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    accuracy, done = 0.0, 0
    if (state := trial.checkpoint.load()) is not None:  # of an attempt whose machine was lost
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        accuracy, done = state["accuracy"], state["epoch"]
    for epoch in range(done + 1, config["epochs"] + 1):
        for x, y in DataLoader(TensorDataset(train_x, train_y), 64, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model.train()(x), y)
            loss.backward()
            optimizer.step()
        accuracy = share_right(model, valid_x, valid_y)
        trial.report(accuracy, epoch)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        trial.checkpoint.save(state | {"accuracy": accuracy, "epoch": epoch}, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


def evaluate(trial: Any, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Called once, for the winner: the only place that sees the test set."""
    model = network(trial.config)
    model.load_state_dict(checkpoint["model"])
    return {"metrics": {"accuracy": share_right(model, *digits("test"))}}


def network(config: Any) -> nn.Module:
    """The model that the settings describe."""
    hidden = config["hidden"]
    return nn.Sequential(
        nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(hidden, 10)
    )


def digits(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 64) in 0..1 and labels 0..9 of one part: 60 % train, 20 % validation, 20 % test."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    first, second = int(0.6 * len(order)), int(0.8 * len(order))
    rows = {"train": order[:first], "validation": order[first:second], "test": order[second:]}[part]
    return torch.tensor(images, dtype=torch.float32)[rows] / 16, torch.tensor(labels)[rows]


def share_right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of `x` that the model reads as `y`, 0 to 1."""
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())
