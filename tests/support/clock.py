"""The clock of every database that this process has open: shifted instead of waited for.

A test may have it stand, so that no lease expires and no second is counted because the machine is busy.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from storage.database.clock import POSTGRESQL_NOW, SQLITE_NOW

_shifted = 0.0  # seconds
_stands_at: float | None = None  # None: it goes


def shift(seconds: float) -> None:
    """Set the clock so much ahead of where it is."""
    global _shifted
    _shifted += seconds


def stand() -> None:
    """Stop it where it is: from now on time passes by `shift` alone."""
    global _stands_at
    _stands_at = time.time()


def right() -> None:
    """Set it right again."""
    global _shifted, _stands_at
    _shifted, _stands_at = 0.0, None


@sa.event.listens_for(sa.engine.Engine, "before_cursor_execute", retval=True)
def _shift(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    if _shifted or _stands_at is not None:
        for now in (SQLITE_NOW, POSTGRESQL_NOW):
            unshifted = now if _stands_at is None else f"CAST({_stands_at!r} AS DOUBLE PRECISION)"
            statement = statement.replace(now, f"({unshifted} + {_shifted!r})")
    return statement, parameters
