"""Database time: the only clock that decides when a lease has expired.

Times are stored as seconds since 1970-01-01 UTC in double precision, so that SQLite and PostgreSQL
compare and add them alike. Tests shift the clock instead of sleeping.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Float, select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

F = TypeVar("F", bound=type[GenericFunction[Any]])
SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"
POSTGRESQL_NOW = "(extract(epoch FROM clock_timestamp())::double precision)"


def in_dialects(**texts: str) -> Callable[[F], F]:
    """How a function of SQL is written in each dialect; {0}, {1}, ... are its arguments."""

    def declare(function: F) -> F:
        for dialect, text in texts.items():

            @compiles(function, dialect)
            def _written(element: Any, compiler: Any, text: str = text, **kw: Any) -> str:
                return text.format(*(compiler.process(clause, **kw) for clause in element.clauses))

        return function

    return declare


@in_dialects(sqlite=SQLITE_NOW, postgresql=POSTGRESQL_NOW)
class database_now(GenericFunction[float]):  # noqa: N801 -- SQL functions are written in lower case
    """Seconds since the epoch by the database's clock, at the moment the statement runs."""

    type = Float()
    inherit_cache = True


def read_now(connection: Connection) -> float:
    """The database's time, in seconds since the epoch."""
    return float(connection.scalar(select(database_now())) or 0.0)


def to_datetime(seconds: float | None) -> datetime | None:
    """A stored time as a timezone-aware UTC datetime; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
