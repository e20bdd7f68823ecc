"""The real data sets that scikit-learn carries: nothing to download.

digits (1,797 handwritten 8 x 8 digits), breast_cancer (569 x 30, 2 classes), wine (178 x 13, 3 classes),
diabetes (442 x 10, a disease score one year later).
"""

from __future__ import annotations

import numpy as np
import torch

from objectives.datasets.records import DataSet, Samples

NAMES = ("digits", "breast_cancer", "wine", "diabetes")


def load(name: str) -> DataSet:
    """Load one of `NAMES`. Digits are images [N, 1, 8, 8] of 0 to 16, stored as uint8."""
    from sklearn import datasets

    raw = getattr(datasets, f"load_{name}")()
    if name == "digits":
        images = torch.from_numpy(raw.images.astype(np.uint8))[:, None]
        classes = tuple(str(label) for label in raw.target_names)
        return DataSet(name, "classification", Samples(images, _labels(raw.target)), classes=classes)
    table = torch.from_numpy(raw.data.astype(np.float32))
    if name == "diabetes":
        return DataSet(name, "regression", Samples(table, torch.from_numpy(raw.target.astype(np.float32))))
    classes = tuple(str(label) for label in raw.target_names)
    return DataSet(name, "classification", Samples(table, _labels(raw.target)), classes=classes)


def _labels(target: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(target.astype(np.int64))
