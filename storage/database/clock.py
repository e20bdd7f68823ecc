"""Database time: the only clock that decides when a lease has expired.

Times are stored as seconds since 1970-01-01 UTC in double precision, so that SQLite and PostgreSQL
compare and add them alike. Tests shift the clock instead of sleeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class database_now(GenericFunction[float]):  # noqa: N801 -- SQL functions are written in lower case
    """Seconds since the epoch by the database's clock, at the moment the statement runs."""

    type = Float()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **kw: Any) -> str:
    return "(extract(epoch FROM clock_timestamp())::double precision)"


@dataclass
class Clock:
    """The database's clock, shifted by `offset` seconds (0 outside tests)."""

    offset: float = 0.0

    def now(self) -> ColumnElement[float]:
        """SQL expression for the current time, in seconds since the epoch."""
        return database_now() + self.offset if self.offset else database_now()

    def read(self, connection: Connection) -> float:
        """The current time, in seconds since the epoch."""
        return float(connection.scalar(select(self.now())) or 0.0)


def to_datetime(seconds: float | None) -> datetime | None:
    """A stored time as a timezone-aware UTC datetime; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
