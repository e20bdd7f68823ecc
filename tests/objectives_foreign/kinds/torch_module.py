"""A whole torch module of the file's own class, saved and loaded by torch, and a tensor as the result."""

import tempfile
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, units):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, units), nn.ReLU(), nn.Linear(units, 1))

    def forward(self, x):
        return self.layers(x)


def objective(trial):
    torch.manual_seed(0)
    net = Net(trial.suggest_int("units", 2, 16))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.pt"
        torch.save(net, file)
        net = torch.load(file, weights_only=False)
    return net(torch.ones(1, 2)).mean()
