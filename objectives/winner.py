"""The winner, for those who use it: one module from raw inputs to scores; saved, and applied to new data.

The module prepares its inputs itself; of several trainings it gives the mean of their scores. Beside it goes
a description (JSON): the classes, the columns or words, what an input looks like.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from objectives.datasets.folder import Pictures
from objectives.datasets.load import load
from objectives.datasets.prepare import Scaling, Whole
from objectives.datasets.records import Samples, Table
from objectives.errors import ConfigError, DataError, ModelError
from objectives.setup import Setup

if TYPE_CHECKING:
    import pandas as pd

DESCRIPTION = "hpo.json"  # the name of the description in a .pt2 file and among an .onnx file's metadata
CLOSE = 1e-4  # what a saved model's scores may differ by
_BATCH = 1024  # rows that are predicted at once
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class Winner(nn.Module):
    """Raw inputs [B, ...] on the CPU -> class probabilities [B, K], or values [B] in the target's units."""

    def __init__(self, setups: Sequence[Setup]) -> None:
        super().__init__()
        self.models = nn.ModuleList(setup.model for setup in setups)
        here = torch.device("cpu")
        self._inputs: list[Scaling] = [setup.data.inputs.to(here) for setup in setups]
        self._losses = [setup.loss for setup in setups]
        targets = [setup.data.targets for setup in setups]
        self._targets = [None if own is None else own.to(here) for own in targets]

    def forward(self, raw: Tensor) -> Tensor:
        every = []
        for model, inputs, loss, targets in zip(
            self.models, self._inputs, self._losses, self._targets, strict=True
        ):
            # Words come numbered by the vocabulary.
            ready = raw.long() if isinstance(inputs, Whole) else inputs.apply(raw)
            scores = loss.scores(model(ready))
            every.append(scores if targets is None else targets.undo(scores))
        return torch.stack(every).mean(0)


def describe(setups: Sequence[Setup], threshold: Any) -> dict[str, Any]:
    """What a user of the module must know, as plain values."""
    first = setups[0]
    data, table = first.data, first.data.table or Table()
    words = data.inputs.words if isinstance(data.inputs, Whole) else ()
    if any(getattr(setup.data.inputs, "words", ()) != words for setup in setups):
        raise ConfigError("folds: each training has words of its own; `hpo refit` makes one of all")
    raw = load(first.config, first.task).train
    return {
        "task": data.task,
        "classes": list(data.classes),
        "shape": list(raw.sample_shape),
        "dtype": str(raw.dtype).removeprefix("torch."),
        "columns": list(table.columns),
        "values": [list(own) for own in table.values],
        "words": list(words),
        "tokens": table.tokens,
        "text_column": first.config.text_column,
        "positive": first.how.positive if len(data.classes) == 2 else None,
        "threshold": threshold,
    }


def save(setups: Sequence[Setup], threshold: Any, path: Path) -> None:
    """Save the module at `path` as .pt2 (torch.export) or .onnx, and check what it gives when read back.

    Raises:
        ConfigError: the file's name ends otherwise, or the extra `onnx` is not installed.
        ModelError: the model cannot be saved so, or what is read back gives other scores.
    """
    description = describe(setups, threshold)
    module = Winner(setups).cpu().eval()
    example = examples(setups[0])
    writers: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {".pt2": _write_pt2, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise ConfigError(f"a model is exported to a file that ends in .pt2 or .onnx, not {path.name!r}")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own parts
            program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
            again = writers[path.suffix](program, json.dumps(description), path)
            expected, found = module(example[:3]), again(example[:3])
    except ModuleNotFoundError as error:
        raise ConfigError(f".onnx needs {error.name}: pip install 'hpo[onnx]'") from error
    except Exception as error:
        raise ModelError(
            f"the model cannot be exported as {path.suffix}: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    if not torch.allclose(found, expected, CLOSE, CLOSE):
        raise ModelError(
            f"{path.name} gives other scores than the model, by {(found - expected).abs().max():g}"
        )


def _write_pt2(program: Any, description: str, path: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(program, path, extra_files={DESCRIPTION: description})
    again: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return again


def _write_onnx(program: Any, description: str, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    written = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["inputs"], output_names=["scores"]
    )
    assert written is not None
    written.model.metadata_props[DESCRIPTION] = description
    written.save(path)
    session = onnxruntime.InferenceSession(path)
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def examples(setup: Setup, count: int = 8) -> Tensor:
    """A few raw training inputs, as the module takes them."""
    raw = load(setup.config, setup.task).train
    first = torch.arange(min(count, len(raw)))
    if not isinstance(raw, Samples):
        return torch.stack([raw.dataset[i][0] for i in first.tolist()])
    inputs = setup.data.inputs
    return inputs.apply(raw.stored[first]) if isinstance(inputs, Whole) else raw.stored[first]


def predict_file(model: Path, source: Path) -> pd.DataFrame:
    """What a .pt2 file of `save` says of the rows of a CSV or Parquet file, or of the pictures in a folder.

    A column `predicted`; of a classification also `p_CLASS`, the probability of each class. Beside pictures
    stands `file`.

    Raises:
        DataError, ConfigError: it is none, or the file or folder is not what the model takes.
    """
    import pandas as pd

    extra = {DESCRIPTION: ""}
    try:
        module = torch.export.load(model, extra_files=extra).module()
        description = json.loads(extra[DESCRIPTION])
    except Exception as error:
        raise ConfigError(f"{str(model)!r} is no model that `hpo best --export` wrote: {error}") from error
    names, raw = _inputs(description, source)
    with torch.no_grad():
        scores = torch.cat([module(raw[i : i + _BATCH]) for i in range(0, len(raw), _BATCH)])
    result = pd.DataFrame({"file": names} if names else {})
    if description["task"] == "regression":
        return result.assign(predicted=scores.numpy())
    best = scores.argmax(1)
    positive, threshold = description["positive"], description["threshold"]
    if positive is not None and threshold is not None:
        best = torch.where(scores[:, positive] >= threshold, positive, 1 - positive)
    classes = description["classes"]
    result["predicted"] = [classes[i] for i in best.tolist()]
    return result.assign(**{f"p_{name}": scores[:, i].numpy() for i, name in enumerate(classes)})


def _inputs(description: dict[str, Any], source: Path) -> tuple[list[str], Tensor]:
    from objectives.datasets.tables import encode, read

    shape, dtype = description["shape"], getattr(torch, description["dtype"])
    if len(shape) == 3:
        if not source.is_dir():
            raise DataError(f"the model takes pictures: name a folder of them, not {str(source)!r}")
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _PICTURES)
        if not files:
            raise DataError(f"{str(source)!r} has no pictures ({', '.join(_PICTURES)})")
        pictures = Pictures([(str(path), 0) for path in files], (shape[2], shape[1]))
        raw = torch.stack([pictures[i][0] for i in range(len(files))])
        if shape[0] == 1:
            raw = raw.float().mean(1, keepdim=True).round()
        return [str(path.relative_to(source)) for path in files], raw.to(dtype)
    frame = read(source)
    if description["words"] or description["columns"]:
        table = Table(
            tuple(description["columns"]),
            tuple(map(tuple, description["values"])),
            tuple(description["words"]),
            description["tokens"],
        )
        return [], encode(frame, table, description["text_column"], shape[0])
    numbers = frame.select_dtypes("number")
    if numbers.shape[1] != shape[0]:
        raise DataError(
            f"{str(source)!r} has {numbers.shape[1]} columns of numbers; the model takes {shape[0]}"
        )
    return [], torch.tensor(numbers.to_numpy(np.float32)).to(dtype)
