"""Rungs: what trials had when they came to one, kept beside their reports and read by increments.

Everybody who compares trials keeps a copy and asks for what is newer. A row is written while others write
theirs, so numbers alone do not tell what somebody has seen: PostgreSQL counts transactions, and says below
which number all of them have ended. On SQLite one writes after the other, and a number of ours will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from storage.database.clock import Clock
from storage.database.tables import rung
from storage.queue.optuna_rows import upsert


@dataclass(frozen=True)
class Rung:
    """A trial has come to a rung of its bracket; `value` is None when it was taken over from before it."""

    trial_id: int
    rung: int
    bracket: int
    epoch: int
    value: float | None


class write_order(GenericFunction[int]):  # noqa: N801 -- SQL functions are written in lower case
    """Of a study's id: grows from one transaction that writes rungs to the next."""

    type = sa.BigInteger()
    inherit_cache = True


class all_before(GenericFunction[int]):  # noqa: N801 -- as above
    """Of a study's id: whoever reads now sees all that was written in an order before it, for ever."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(write_order, "postgresql")
def _postgresql_order(element: Any, compiler: Any, **kw: Any) -> str:
    return "txid_current()"


@compiles(all_before, "postgresql")
def _postgresql_before(element: Any, compiler: Any, **kw: Any) -> str:
    return "txid_snapshot_xmin(txid_current_snapshot())"


@compiles(write_order, "sqlite")
@compiles(all_before, "sqlite")
def _sqlite_order(element: Any, compiler: Any, **kw: Any) -> str:
    its = compiler.process(element.clauses, **kw)
    return f"(SELECT coalesce(max(written), 0) + 1 FROM hpo_rung WHERE study_id = {its})"  # noqa: S608


# Made once, as in `storage.queue.locks`.
_ITS = sa.bindparam("its", type_=sa.Integer())
_NEWER = sa.select(
    rung.c.trial_id, rung.c.rung, rung.c.bracket, rung.c.epoch, rung.c.value, all_before(_ITS)
).where(rung.c.study_id == _ITS, rung.c.written >= sa.bindparam("since"))
_FORGET = (
    rung.update()
    .where(rung.c.trial_id == sa.bindparam("trial"), rung.c.epoch > sa.bindparam("step"))
    .values(value=None, written=write_order(_ITS))
)


def write(connection: Connection, clock: Clock, study_id: int, reached: Sequence[Rung]) -> None:
    """Trials have come to these rungs; one that was reached before has the new value."""
    for one in reached:
        values = {
            "trial_id": one.trial_id,
            "rung": one.rung,
            "study_id": study_id,
            "its": study_id,
            "bracket": one.bracket,
            "epoch": one.epoch,
            "value": one.value,
        }
        connection.execute(_upsert(connection.dialect.name, clock.offset), values)


def forget_after(connection: Connection, study_id: int, trial_id: int, step: int) -> None:
    """The trial goes on from a checkpoint of this step: it has not come to later rungs.

    The rows stay, without a value, so that whoever keeps a copy learns of it.
    """
    connection.execute(_FORGET, {"trial": trial_id, "step": step, "its": study_id})


def newer(connection: Connection, study_id: int, since: int) -> tuple[int, list[Rung]]:
    """What was written since a reading that returned `since` (0: all), some of it perhaps seen before."""
    rows = connection.execute(_NEWER, {"its": study_id, "since": since}).all()
    return (rows[0][-1] if rows else since), [Rung(*row[:-1]) for row in rows]


@cache
def _upsert(dialect: str, offset: float) -> Any:
    new = upsert(dialect, rung).values(reached_at=Clock(offset).now(), written=write_order(_ITS))
    changed = ("bracket", "epoch", "value", "reached_at", "written")
    return new.on_conflict_do_update(
        index_elements=["trial_id", "rung"], set_={name: new.excluded[name] for name in changed}
    )
