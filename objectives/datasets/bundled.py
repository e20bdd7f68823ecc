"""The real data sets that scikit-learn carries: nothing to download.

digits (1,797 handwritten 8 x 8 digits), breast_cancer (569 x 30, 2 classes), wine (178 x 13, 3 classes),
diabetes (442 x 10, a disease score one year later).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives.datasets.records import DataSet, Samples

NAMES = ("digits", "breast_cancer", "wine", "diabetes")


def load(name: str) -> DataSet:
    """Load one of `NAMES`. Digits are images [N, 1, 8, 8] of 0 to 16, stored as uint8."""
    if name == "diabetes":
        from sklearn.datasets import load_diabetes  # two seconds, which the others spare: it scales its table

        raw: Any = load_diabetes()
        table, target = (torch.from_numpy(part.astype(np.float32)) for part in (raw.data, raw.target))
        return DataSet(name, "regression", Samples(table, target))
    numbers, classes = _file(name)
    labels = torch.from_numpy(numbers[:, -1].astype(np.int64))
    if name == "digits":
        inputs = torch.from_numpy(numbers[:, :-1].astype(np.uint8)).view(-1, 1, 8, 8)
    else:
        inputs = torch.from_numpy(numbers[:, :-1].astype(np.float32))
    return DataSet(name, "classification", Samples(inputs, labels), classes=classes)


def _file(name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows of a table, its labels in the last column, and the names of the classes."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    if name == "digits":
        return np.loadtxt(folder / "digits.csv.gz", delimiter=","), tuple("0123456789")
    file = folder / {"wine": "wine_data.csv"}.get(name, f"{name}.csv")
    with file.open(encoding="utf-8") as lines:  # the first holds: rows, columns, classes
        classes = next(lines).strip().split(",")[2:]
        return np.loadtxt(lines, delimiter=","), tuple(classes)
