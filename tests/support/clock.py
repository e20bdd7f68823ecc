"""The clock of every database that this process has open: shifted instead of waited for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from storage.database.clock import POSTGRESQL_NOW, SQLITE_NOW

_shifted = 0.0  # seconds


def shift(seconds: float) -> None:
    """Set the clock so much ahead of where it is."""
    global _shifted
    _shifted += seconds


def right() -> None:
    """Set it right again."""
    global _shifted
    _shifted = 0.0


@sa.event.listens_for(sa.engine.Engine, "before_cursor_execute", retval=True)
def _shift(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    if _shifted:
        for now in (SQLITE_NOW, POSTGRESQL_NOW):
            statement = statement.replace(now, f"({now} + {_shifted!r})")
    return statement, parameters
