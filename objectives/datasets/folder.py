"""The user's own images: a directory with one subdirectory per class.

Either `root/class/picture.png`, or `root/train/class/...` beside `root/validation` (or `val`) and
`root/test`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from objectives.datasets.records import DataSet, LazySamples
from objectives.errors import DataError

PARTS = {
    "train": ("train",),
    "validation": ("valid", "val", "validation"),
    "test": ("test",),
}  # the last that is there


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images read one at a time: uint8 [3, H, W] and a label."""

    def __init__(self, files: list[tuple[str, int]], size: tuple[int, int] | None) -> None:
        self._files = files
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, UnidentifiedImageError

        path, label = self._files[index]
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(f"image_folder: {path} is not an image that can be read: {error}") from error
        if self._size is not None and picture.size != self._size:
            picture = picture.resize(self._size, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1), label


def load(root: Path, image_size: int | None) -> DataSet:
    """List the images under `root`; they are read later.

    Args:
        image_size: resize to this many pixels, high and wide; None: all must have the first one's size.

    Raises:
        DataError: the directory, its classes or images are missing, or the first cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"image_folder: there is no directory {str(root)!r}; set data_root")
    found = {part: root / name for part, names in PARTS.items() for name in names if (root / name).is_dir()}
    lists = {part: _list(path) for part, path in (found if "train" in found else {"train": root}).items()}
    classes = lists["train"].classes
    for part, listed in lists.items():
        if listed.classes != classes:
            raise DataError(f"image_folder: {part} has the classes {listed.classes}, train has {classes}")
    size = (image_size, image_size) if image_size is not None else None
    shape = tuple(Pictures(lists["train"].samples, size)[0][0].shape)
    samples = {
        part: LazySamples(Pictures(listed.samples, size), torch.tensor(listed.targets), shape, fixed=True)
        for part, listed in lists.items()
    }
    return DataSet(
        "image_folder",
        "classification",
        samples["train"],
        samples.get("test"),
        samples.get("validation"),
        classes=tuple(classes),
    )


def _list(path: Path) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataError(
            f"image_folder: {str(path)!r} needs one subdirectory of images per class: {error}"
        ) from error
