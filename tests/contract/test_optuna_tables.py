"""Optuna's tables, values and distributions, read without Optuna, are what Optuna says they are."""

from __future__ import annotations

import math
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from optuna import distributions
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Column, Enum, ForeignKeyConstraint, Table

from storage.database import migrate, optuna_tables
from storage.database.engine import Database, make_engine, parse_url
from storage.database.errors import SchemaError
from storage.database.migrate import open_database
from storage.database.rdb import EngineStorage
from tests.support.shared import make_study

_JSON = [
    *map(
        distributions.distribution_to_json,
        (
            distributions.FloatDistribution(0.0, 1.0),
            distributions.FloatDistribution(1e-4, 1.0, log=True),
            distributions.FloatDistribution(0.0, 1.0, step=0.25),
            distributions.IntDistribution(0, 9),
            distributions.IntDistribution(1, 9, log=True),
            distributions.CategoricalDistribution(["sgd", None, True, 3, 0.5]),
        ),
    ),
    # What earlier versions of Optuna stored, and the short form.
    '{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 1.0}}',
    '{"name": "LogUniformDistribution", "attributes": {"low": 0.1, "high": 1.0}}',
    '{"name": "DiscreteUniformDistribution", "attributes": {"low": 0.0, "high": 1.0, "q": 0.5}}',
    '{"name": "IntUniformDistribution", "attributes": {"low": 0, "high": 4, "step": 2}}',
    '{"name": "IntLogUniformDistribution", "attributes": {"low": 1, "high": 4, "step": 1}}',
    '{"type": "float", "low": 0.0, "high": 1.0}',
    '{"type": "int", "low": 0, "high": 4}',
    '{"type": "categorical", "choices": ["a", 2]}',
]


def _column(column: Column[Any]) -> tuple[Any, ...]:
    kind = column.type
    named = (kind.name, tuple(kind.enums)) if isinstance(kind, Enum) else repr(kind)
    return column.name, named, column.nullable, column.primary_key, bool(column.index), bool(column.unique)


def _keys(table: Table) -> set[tuple[Any, ...]]:
    keys: set[tuple[Any, ...]] = set()
    for constraint in table.constraints:
        targets = ()
        if isinstance(constraint, ForeignKeyConstraint):
            targets = tuple(element.target_fullname for element in constraint.elements)
        columns = constraint.columns  # type: ignore[attr-defined]
        keys.add((type(constraint).__name__, tuple(columns.keys()), targets))
    return keys


@pytest.mark.parametrize("name", sorted(optuna_tables.metadata.tables))
def test_optunas_tables_are_declared_as_its_models_declare_them(name: str) -> None:
    """Names, types, nullability, keys: a column that Optuna changes is noticed here."""
    ours, theirs = optuna_tables.metadata.tables[name], models.BaseModel.metadata.tables[name]
    assert [_column(column) for column in ours.c] == [_column(column) for column in theirs.c]
    assert _keys(ours) == _keys(theirs)


def test_the_states_are_those_of_optuna() -> None:
    assert [state.name for state in optuna_tables.TrialState] == [state.name for state in TrialState]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Optuna about its own old names
@pytest.mark.parametrize("stored", [0.0, 1.0])
@pytest.mark.parametrize("text", _JSON)
def test_a_stored_parameter_reads_as_optuna_reads_it(text: str, stored: float) -> None:
    """Value and type: a whole number is an int, a choice the choice itself."""
    expected = distributions.json_to_distribution(text).to_external_repr(stored)
    found = optuna_tables.external(text)(stored)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [0.5, -0.0, math.inf, -math.inf, math.nan])
def test_a_report_is_stored_as_optuna_stores_it(value: float) -> None:
    number, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    assert optuna_tables.stored(value) == (number, kind.name)


def test_distributions_are_equal_when_what_is_stored_is() -> None:
    """A record that is read again is the same record, whether its distributions were looked at or not."""
    one, same = (optuna_tables.Distributions({"x": _JSON[0], "n": _JSON[3]}) for _ in range(2))
    decoded = {"x": distributions.FloatDistribution(0.0, 1.0), "n": distributions.IntDistribution(0, 9)}
    assert dict(one) == decoded
    assert one == same
    assert one == decoded
    assert one != optuna_tables.Distributions({"x": _JSON[0], "n": _JSON[4]})


def test_the_versions_that_opening_compares_are_the_newest() -> None:
    """Opening reads no revision scripts; so its constants must be their heads."""
    assert ScriptDirectory.from_config(migrate._config()).get_current_head() == migrate.HEAD
    scripts = ScriptDirectory(str(models.__file__).replace("models.py", "alembic"))
    assert scripts.get_current_head() == optuna_tables.VERSION


def test_optunas_storage_shares_the_one_engine(database: Database) -> None:
    """It is made when it is asked for, on the connections that all other statements use."""
    assert "rdb" not in vars(database)
    make_study(database)
    assert database.rdb.engine is database.engine
    assert database.rdb.scoped_session().get_bind() is database.engine


def test_the_storage_made_without_optunas_constructor_is_like_one_made_with_it(url: str) -> None:
    """The same attributes: one that Optuna adds is noticed here."""
    theirs = RDBStorage(url)
    parsed = parse_url(url)
    ours = EngineStorage(parsed, make_engine(parsed))
    assert vars(ours).keys() == vars(theirs).keys()
    different = {name for name in vars(theirs) if repr(vars(theirs)[name]) != repr(vars(ours)[name])}
    assert different <= {"engine_kwargs", "scoped_session", "skip_compatibility_check", "_version_manager"}
    theirs.engine.dispose()


def test_optunas_tables_of_another_version_are_refused(storage_url: str) -> None:
    """Also by a command that needs no Optuna: it would read tables that it does not know."""
    opened = open_database(storage_url)
    with opened.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    opened.close()
    with pytest.raises(SchemaError, match=r"Optuna's tables .* another version"):
        open_database(storage_url)
