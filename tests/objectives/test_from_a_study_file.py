"""Data and models from everywhere through the real command, and what the record says of what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.objectives.helpers import write_idx
from tests.support.command import look, run_hpo

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def blobs():
    labels = torch.arange(90) % 3
    return TensorDataset(torch.randn(90, 1, 8, 8) + labels[:, None, None, None] * 2, labels)

def make(sample_shape, outputs, width=4):
    channels, height, width_ = sample_shape
    pixels = channels * height * width_
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, outputs))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_idx(tmp_path, "FashionMNIST", train=200, test=40)
    for shade, name in enumerate(("dark", "light")):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((9, 9, 3), shade * 120 + i, dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_data_and_models_from_everywhere_and_a_sentence_for_what_is_missing(place: Path) -> None:
    """Every path in the study file begins at the study file, wherever the command is given."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    datasets = ["digits", "fashionmnist", "image_folder", "own.py:blobs", "mnist"]
    spec: dict[str, Any] = {
        "study": "everywhere",
        "objective": "objectives.classifier",
        "direction": "maximize",
        "sampler": {"name": "grid"},
        "pruner": {"name": "none"},
        "space": {
            "dataset": {"type": "categorical", "choices": datasets},
            "model": {"type": "categorical", "choices": ["mlp", "own.py:make"]},
        },
        "fixed": {"epochs": 2, "data_root": ".", "image_size": 8, "train_limit": 150},
    }
    path = place / "everywhere.yaml"
    path.write_text(yaml.safe_dump(spec))
    options = ("--runners", "1", "--quiet", "--no-report")
    run_hpo("run", path, *options, cwd=elsewhere, timeout=240).check()
    trials = look("trials", "everywhere", "--format", "json", cwd=elsewhere).check().json
    assert len(trials) == 10
    for trial in trials:
        missing = trial["params"]["dataset"] == "mnist"
        assert trial["state"] == ("failed" if missing else "complete"), trial
        if missing:
            assert "MNIST: there are no files in" in trial["error"]
            assert "Set download: true" in trial["error"]
