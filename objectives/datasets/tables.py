"""The user's own tables and texts: a CSV or Parquet file with a column that says what is to be predicted.

A table becomes numbers [N, D], a category its place among those of the file, what is missing NaN. A text
becomes the numbers of its words among those of the file, from 2; 0 fills up behind it, 1 is any other word.
What is learnt of them, the scaling or the vocabulary, is learnt from the training data alone (prepare.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from objectives.config import TrainingConfig, near
from objectives.datasets.records import DataSet, Samples, Table, Task
from objectives.errors import ConfigError, DataError
from objectives.imports import locate

MANY = 1000  # different values, of more than half the rows: no category, but the name of a row
_WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def load(config: TrainingConfig, task: Task) -> DataSet:
    """Read `config.file`.

    Raises:
        ConfigError: there is no column of a name.
        DataError: the file is missing, cannot be read, or lacks a value that it must have.
    """
    if not config.file:
        raise ConfigError(f"file: dataset: {config.dataset} needs the path of a CSV or Parquet file")
    frame = read(locate(config.file))
    is_text = config.dataset == "text"
    target = config.target_column or ("label" if is_text else "")
    if not target:
        raise ConfigError(f"target_column: name the column to predict, of {', '.join(frame.columns)}")
    truth = _column(frame, "target_column", target)
    if missing := int(truth.isna().sum()):
        row = int(truth.isna().to_numpy().argmax())
        raise DataError(
            f"{config.file}: {missing} of {len(frame)} rows have no {target} (the first is row {row})"
        )
    apart = [target, *filter(None, (config.split_by, config.time_column))]
    groups = order = None
    if config.split_by:
        groups = torch.from_numpy(
            pd.factorize(_column(frame, "split_by", config.split_by))[0].astype(np.int64)
        )
    if config.split == "time":
        order = _order(_column(frame, "time_column", config.time_column or ""), config)
    if is_text:
        texts = _column(frame, "text_column", config.text_column).fillna("").astype(str)
        stored, words = _tokens(texts.tolist(), config)
        table = Table(tokens=config.tokens, words=words, groups=groups, order=order)
    else:
        names = list(config.columns or [name for name in frame.columns if name not in apart])
        stored, values = _numbers(frame[[*_known(frame, "columns", names)]], config)
        table = Table(tuple(names), values, groups=groups, order=order)
    if task == "regression":
        numbers = pd.to_numeric(truth, errors="coerce")
        if numbers.isna().any():
            raise DataError(
                f"{config.file}: {target} has the value {truth[numbers.isna()].iloc[0]!r}, no number"
            )
        targets, classes = torch.tensor(numbers.to_numpy(np.float32)), ()
    else:
        named = sorted(truth.unique())
        classes = tuple(map(_spelled, named))
        targets = torch.tensor(truth.map({value: i for i, value in enumerate(named)}).to_numpy(np.int64))
    return DataSet(config.file, task, Samples(stored, targets), classes=classes, table=table)


def read(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Raises:
        DataError: it is not there, cannot be read, or has no rows.
    """
    try:
        parquet = path.suffix.lower() in (".parquet", ".pq")
        frame = pd.read_parquet(path) if parquet else pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"file: there is no file {str(path)!r}") from None
    except Exception as error:
        raise DataError(f"file: {str(path)!r} cannot be read: {type(error).__name__}: {error}") from error
    if frame.empty:
        raise DataError(f"file: {str(path)!r} has no rows")
    return frame.rename(columns=str)


def encode(frame: pd.DataFrame, table: Table, text_column: str, length: int) -> Tensor:
    """What a model takes of the rows of `frame`, as it was trained on `table`; of a text `length` words.

    Raises:
        ConfigError: a column is missing.
    """
    if table.words:
        texts = _column(frame, "text_column", text_column).fillna("").astype(str).tolist()
        return _numbered(texts, table.words, table.tokens, length, length)
    _known(frame, "columns", table.columns)
    columns = []
    for name, values in zip(table.columns, table.values, strict=True):
        if values:
            places = {value: float(i) for i, value in enumerate(values)}
            columns.append(frame[name].map(_spelled).map(places).to_numpy(np.float32))
        else:
            columns.append(pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float32))
    return torch.from_numpy(np.stack(columns, 1))


def words_of(text: str, tokens: str) -> list[str]:
    """The words and signs of a text in lower case; or its characters."""
    return list(text) if tokens == "characters" else _WORDS.findall(text.lower())


def _numbers(frame: pd.DataFrame, config: TrainingConfig) -> tuple[Tensor, tuple[tuple[str, ...], ...]]:
    forced = _known(frame, "categorical", config.categorical)
    values: list[tuple[str, ...]] = []
    columns = []
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column) and name not in forced:
            values.append(())
            columns.append(column.to_numpy(np.float32, na_value=np.nan))
            continue
        spelled = column.map(_spelled)
        different = tuple(sorted(spelled.dropna().unique()))
        if len(different) > max(MANY, len(frame) / 2) or len(different) == len(frame) > 20:
            raise DataError(
                f"{config.file}: the column {name} has {len(different)} different values in {len(frame)} "
                "rows, which are no categories; leave it out (columns: the names of those to use)"
            )
        values.append(different or ("",))
        places = {value: float(i) for i, value in enumerate(different)}
        columns.append(spelled.map(places).to_numpy(np.float32))
    return torch.from_numpy(np.stack(columns, 1)), tuple(values)


def _tokens(texts: list[str], config: TrainingConfig) -> tuple[Tensor, tuple[str, ...]]:
    words = sorted({word for text in texts for word in words_of(text, config.tokens)})
    if not words:
        raise DataError(f"{config.file}: the column {config.text_column} has no words")
    named = ("", "<unknown>", *words)
    return _numbered(texts, named, config.tokens, config.max_length), named


def _numbered(texts: list[str], words: Sequence[str], tokens: str, most: int, least: int = 1) -> Tensor:
    number = {word: i for i, word in enumerate(words) if i > 1}
    rows = [[number.get(word, 1) for word in words_of(text, tokens)[:most]] for text in texts]
    result = torch.zeros(len(rows), max(least, *map(len, rows)), dtype=torch.int64)
    for row, own in zip(result, rows, strict=True):
        row[: len(own)] = torch.tensor(own, dtype=torch.int64)
    return result


def _order(times: pd.Series[Any], config: TrainingConfig) -> Tensor:
    if times.isna().any():
        raise DataError(f"{config.file}: {config.time_column} is missing in {int(times.isna().sum())} rows")
    if not pd.api.types.is_numeric_dtype(times):
        try:
            times = pd.to_datetime(times, utc=True, format="ISO8601").astype("int64")
        except ValueError as error:
            raise DataError(
                f"{config.file}: {config.time_column} must hold numbers, or times as 2026-01-31: {error}"
            ) from error
    return torch.from_numpy(times.rank(method="first").to_numpy(np.int64))


def _column(frame: pd.DataFrame, field: str, name: str) -> pd.Series[Any]:
    return frame[_known(frame, field, [name])[0]]


def _known(frame: pd.DataFrame, field: str, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in frame.columns:
            raise ConfigError(f"{field}: the file has no column {name!r}; {near(name, list(frame.columns))}")
    return names


def _spelled(value: Any) -> Any:
    """A category as text, 3.0 as 3; what is missing stays."""
    if pd.isna(value):
        return np.nan
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
