"""Finished trials from elsewhere: an existing Optuna study, or a table in a CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hpo.errors import UserError
from hpo.search.diverged import is_diverged
from hpo.spec import CategoricalParameter, StudySpec
from hpo.spec.problems import listed, nearest
from hpo.spec.reading import read_scalar
from storage.database.engine import parse_url
from storage.database.errors import SchemaError
from storage.database.rdb import open_theirs
from storage.history.records import Direction

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "diverged": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "waiting": TrialState.WAITING,
}
_VALUE = re.compile(r"values?(?:_(\d{1,2}))?")
_CONSTRAINT = re.compile(r"(?:system_attrs_constraints:|constraints_)(.+)")  # Optuna's and ours
_LISTED = "system_attrs_constraints"  # of Optuna 4: a list of them in one column
_OF_NO_USE = re.compile(  # what Optuna's trials_dataframe and `hpo export` write besides
    r"number|trial|attempts|ticket|worker|device|started|finished|seconds|epochs|last_report|error|duration"
    r"|datetime_(start|complete)|(user|system)_attrs_.*|"
)


@dataclass(frozen=True)
class Observed:
    """One trial as its source has it; nothing is checked against a space yet."""

    where: str  # "trial 7", "row 8"
    state: TrialState
    params: Mapping[str, Any]
    values: tuple[float, ...] | None
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    reports: Mapping[int, float] = field(default_factory=dict)
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    started: datetime | None = None  # naive UTC, as Optuna has it
    ended: datetime | None = None
    diverged: bool = False  # it failed because its setting diverged
    constraints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where trials come from, and all of them."""

    name: str  # of the Optuna study, or of the file
    directions: tuple[Direction, ...] | None  # None: a table does not say
    trials: Sequence[Observed]


def read_optuna(place: str, study: str | None) -> Source:
    """The trials of an Optuna study: `place` is a database URL, a SQLite file or a journal file.

    Raises:
        UserError: nothing of that kind is there, or `study` does not name one of its studies.
    """
    storage = _opened(place)
    found = {item.study_name: item for item in storage.get_all_studies()}
    if study is None and len(found) == 1:
        study = next(iter(found))
    if study is None:
        raise UserError(f"say which study to import, --study NAME: there are {listed(found) or 'none'}")
    if study not in found:
        raise UserError(
            f"there is no Optuna study named {study}{nearest(study, found)}; there are {listed(found)}"
        )
    trials = [
        Observed(
            where=f"trial {trial.number}",
            state=trial.state,
            params=trial.params,
            values=None if trial.values is None else tuple(trial.values),
            distributions=trial.distributions,
            reports=trial.intermediate_values,
            user_attrs=trial.user_attrs,
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            diverged=is_diverged(trial),
            constraints=trial.constraints,
        )
        for trial in storage.get_all_trials(found[study]._study_id, deepcopy=False)
    ]
    names: dict[str, Direction] = {"MINIMIZE": "minimize", "MAXIMIZE": "maximize"}
    return Source(study, tuple(names[direction.name] for direction in found[study].directions), trials)


def _opened(place: str) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in place:
        file = Path(place)
        if not file.is_file():
            raise UserError(
                f"there is no file {place}; name a database (postgresql://..., sqlite:///...) or a file"
            )
        if file.read_bytes()[:15] != b"SQLite format 3":
            try:
                return JournalStorage(JournalFileBackend(place))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{place} is neither a SQLite database nor a journal of Optuna") from error
        place = f"sqlite:///{file.absolute()}"
    url = parse_url(place)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise UserError(f"there is no file {url.database}")
    try:
        return open_theirs(url)
    except SchemaError as error:
        raise UserError(str(error)) from error


def read_csv(path: Path, spec: StudySpec) -> Source:
    """The rows of a table: one column a parameter, `value` (or `value_0`, `value_1`, ...), maybe `state`, and
    one a constraint, `constraints_NAME`.

    Parameters may be called `params_NAME`, as Optuna and `hpo export` call them; the other columns
    those two write are ignored. An empty cell is a parameter that does not exist in that row.

    Raises:
        UserError: the file cannot be read, or a column is missing or unknown.
    """
    if not spec.space:
        raise UserError("a table says nothing about ranges: the study file needs a `space` to import it")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            columns = _columns(path, header, spec)
            trials = [_row(path, columns, cells, rows.line_num, spec) for cells in rows if any(cells)]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV file: {error}") from error
    return Source(path.stem, None, trials)


@dataclass(frozen=True)
class _Columns:
    """Which column holds what."""

    width: int
    params: Mapping[str, int]
    values: tuple[int, ...]
    state: int | None
    constraints: Mapping[str, int]
    listed: int | None  # where a list of constraints stands


def _columns(path: Path, header: list[str], spec: StudySpec) -> _Columns:
    params: dict[str, int] = {}
    values: dict[int, int] = {}
    constraints: dict[str, int] = {}
    state = listed_at = None
    for index, name in enumerate(header):
        parameter = name if name in spec.space else name.removeprefix("params_")
        if parameter in spec.space:
            if parameter in params:
                raise UserError(f"{path}: two columns hold {parameter}")
            params[parameter] = index
        elif match := _VALUE.fullmatch(name):
            values[int(match[1] or 0)] = index
        elif match := _CONSTRAINT.fullmatch(name):
            constraints[match[1]] = index
        elif name == _LISTED:
            listed_at = index
        elif name == "state":
            state = index
        elif not _OF_NO_USE.fullmatch(name) or name.startswith("params_"):
            raise UserError(
                f"{path}: the column {name} is neither a parameter of {spec.study} ({listed(spec.space)}) "
                f"nor value or state{nearest(parameter, [*spec.space, 'value', 'state'])}"
            )
    wanted = list(range(len(spec.directions)))
    if sorted(values) != wanted:
        expected = "value" if len(wanted) == 1 else listed(f"value_{i}" for i in wanted)
        raise UserError(f"{path} must have the column {expected}; it has {listed(header) or 'none'}")
    missing = [n for n, parameter in spec.space.items() if n not in params and parameter.when is None]
    if missing:
        raise UserError(f"{path} has no column for {listed(missing)}")
    return _Columns(len(header), params, tuple(values[i] for i in wanted), state, constraints, listed_at)


def _row(path: Path, columns: _Columns, cells: list[str], line: int, spec: StudySpec) -> Observed:
    where = f"row {line}"
    if len(cells) != columns.width:
        raise UserError(f"{path}, {where}: has {len(cells)} cells, but there are {columns.width} columns")
    texts = [cells[index].strip() for index in columns.values]
    word = "" if columns.state is None else cells[columns.state].strip().lower().rpartition(".")[2]
    if word and word not in _STATES:
        raise UserError(f"{path}, {where}: state must be {listed(_STATES)}, got {word}")
    params = dict(_params(columns, cells, spec))
    values = _numbers(path, where, texts)
    told = {name: cells[index].strip() for name, index in columns.constraints.items()}
    if columns.listed is not None:
        told |= {
            str(i): text.strip() for i, text in enumerate(cells[columns.listed].strip("[() ]").split(","))
        }
    constraints: dict[str, float] = {}
    for name, text in told.items():
        found = _numbers(path, where, [text], f"constraint {name}")
        constraints |= {} if found is None else {name: found[0]}
    return Observed(
        where,
        _STATES[word or "complete"],
        params,
        values,
        diverged=word == "diverged",
        constraints=constraints,
    )


def _params(columns: _Columns, cells: list[str], spec: StudySpec) -> Iterator[tuple[str, Any]]:
    for name, index in columns.params.items():
        text = cells[index].strip()
        parameter = spec.space[name]
        if isinstance(parameter, CategoricalParameter) and text in parameter.labels:
            yield name, text
        elif text:
            yield name, read_scalar(text)


def _numbers(path: Path, where: str, texts: list[str], what: str = "value") -> tuple[float, ...] | None:
    if not all(texts):
        return None
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise UserError(f"{path}, {where}: {what} must be a number, got {listed(texts)}") from None
