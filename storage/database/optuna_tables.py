"""Optuna's tables as SQLAlchemy Core tables, so that trials are read and written without Optuna's models.

Optuna migrates them; a test compares these with its models. Importing Optuna costs a command
more than all its queries, so nothing here imports it before a distribution itself is asked for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

VERSION = "v3.2.0.a"  # of these tables, as Optuna's own migrations name it
VERSION_TABLE = "alembic_version"
_SCHEMA = 12  # what Optuna's own table of versions calls them


class TrialState(StrEnum):
    """State of an Optuna trial; its own enumeration has the same names."""

    RUNNING = "RUNNING"  # somebody evaluates it, or will go on with it
    COMPLETE = "COMPLETE"  # it has a value
    PRUNED = "PRUNED"  # stopped early
    FAIL = "FAIL"  # ended without a result
    WAITING = "WAITING"  # queued in plain Optuna; what waits here is a ticket


metadata = MetaData()

studies = Table(
    "studies",
    metadata,
    Column("study_id", Integer, primary_key=True),
    Column("study_name", String(512), index=True, unique=True, nullable=False),
)
study_directions = Table(
    "study_directions",
    metadata,
    Column("study_direction_id", Integer, primary_key=True),
    Column("direction", Enum("NOT_SET", "MINIMIZE", "MAXIMIZE", name="studydirection"), nullable=False),
    Column("study_id", Integer, ForeignKey("studies.study_id"), nullable=False),
    Column("objective", Integer, nullable=False),
    UniqueConstraint("study_id", "objective"),
)
trials = Table(
    "trials",
    metadata,
    Column("trial_id", Integer, primary_key=True),
    Column("number", Integer),
    Column("study_id", Integer, ForeignKey("studies.study_id"), index=True),
    Column("state", Enum(TrialState, name="trialstate"), nullable=False),
    Column("datetime_start", DateTime),  # naive UTC
    Column("datetime_complete", DateTime),
)
params = Table(
    "trial_params",
    metadata,
    Column("param_id", Integer, primary_key=True),
    Column("trial_id", Integer, ForeignKey("trials.trial_id")),
    Column("param_name", String(512)),
    Column("param_value", Float(53)),  # as the distribution stores it: a choice by its index
    Column("distribution_json", Text),
    UniqueConstraint("trial_id", "param_name"),
)
values = Table(
    "trial_values",
    metadata,
    Column("trial_value_id", Integer, primary_key=True),
    Column("trial_id", Integer, ForeignKey("trials.trial_id"), nullable=False),
    Column("objective", Integer, nullable=False),  # index of the direction
    Column("value", Float(53)),
    Column("value_type", Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype"), nullable=False),
    UniqueConstraint("trial_id", "objective"),
)
reports = Table(
    "trial_intermediate_values",
    metadata,
    Column("trial_intermediate_value_id", Integer, primary_key=True),
    Column("trial_id", Integer, ForeignKey("trials.trial_id"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("intermediate_value", Float(53)),
    Column(
        "intermediate_value_type",
        Enum("FINITE", "INF_POS", "INF_NEG", "NAN", name="trialintermediatevaluetype"),
        nullable=False,
    ),
    UniqueConstraint("trial_id", "step"),
)
Table(
    "trial_heartbeats",
    metadata,
    Column("trial_heartbeat_id", Integer, primary_key=True),
    Column("trial_id", Integer, ForeignKey("trials.trial_id"), nullable=False),
    Column("heartbeat", DateTime, nullable=False),
    UniqueConstraint("trial_id"),
)
_versions = Table(
    "version_info",
    metadata,
    Column("version_info_id", Integer, primary_key=True, autoincrement=False, default=1),
    Column("schema_version", Integer),
    Column("library_version", String(256)),
    CheckConstraint("version_info_id=1"),
)


def _attributes(owner: str, kind: str) -> Table:
    key = f"{owner}_id"
    owners = {"trial": "trials.trial_id", "study": "studies.study_id"}
    return Table(
        f"{owner}_{kind}_attributes",
        metadata,
        Column(f"{owner}_{kind}_attribute_id", Integer, primary_key=True),
        Column(key, Integer, ForeignKey(owners[owner])),
        Column("key", String(512)),
        Column("value_json", Text),
        UniqueConstraint(key, "key"),
    )


user_attributes = _attributes("trial", "user")
system_attributes = _attributes("trial", "system")
study_user_attributes = _attributes("study", "user")
study_system_attributes = _attributes("study", "system")


def make(connection: Connection) -> None:
    """Make them, as Optuna does in an empty database; but for its `VERSION_TABLE`."""
    metadata.create_all(connection)
    version = importlib.metadata.version("optuna")
    connection.execute(_versions.insert().values(schema_version=_SCHEMA, library_version=version))


def are_newest() -> bool:
    """Whether the Optuna that is installed knows no newer ones. It is not imported."""
    found = importlib.util.find_spec("optuna")
    if found is None or found.origin is None:
        return False
    scripts = Path(found.origin).parent.glob("storages/_rdb/alembic/versions/v*.py")
    return max((script.stem.rstrip("_") for script in scripts), default=None) == VERSION


def stored(value: float) -> tuple[float | None, str]:
    """A value or report as its two columns hold it: finite numbers stand, others are named."""
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return value, "FINITE"


@lru_cache(maxsize=4096)
def external(distribution_json: str) -> Callable[[float], Any]:
    """What turns a stored parameter into the value that the objective got."""
    found = json.loads(distribution_json)
    kind = str(found.get("name") or found.get("type")).lower()  # the short form names a type
    if kind.startswith("categorical"):
        choices = found.get("attributes", found)["choices"]
        return lambda stored: choices[int(stored)]
    return int if kind.startswith("int") else lambda stored: stored


class Distributions(Mapping[str, "BaseDistribution"]):
    """A trial's distributions by parameter, kept as stored; Optuna is imported when one is looked at."""

    def __init__(self, stored: Mapping[str, str]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> BaseDistribution:
        return distribution(self._stored[name])

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Distributions):
            return self._stored == other._stored
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


@lru_cache(maxsize=4096)
def distribution(distribution_json: str) -> BaseDistribution:
    from optuna.distributions import json_to_distribution

    return json_to_distribution(distribution_json)
