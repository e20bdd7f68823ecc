"""Rungs: what trials had when they came to one, kept beside their reports and read by increments.

Everybody who compares trials keeps a copy and asks for what is newer. A row is written while others write
theirs, so numbers alone do not tell what somebody has seen: PostgreSQL counts transactions, and says below
which number all of them have ended. On SQLite one writes after the other, and a number of ours will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.functions import GenericFunction

from storage.database.clock import database_now, in_dialects
from storage.database.records import objective_name
from storage.database.tables import metric, rung
from storage.queue.optuna_rows import overwriting


@dataclass(frozen=True)
class Rung:
    """A trial has come to a rung of its bracket; `value` is None when it was taken over from before it."""

    trial_id: int
    rung: int
    bracket: int
    epoch: int
    value: float | None
    further: tuple[float, ...] = ()  # of the other directions, which are stored with the report alone


_NEXT = "(SELECT coalesce(max(written), 0) + 1 FROM hpo_rung WHERE study_id = {0})"


@in_dialects(postgresql="txid_current()", sqlite=_NEXT)
class write_order(GenericFunction[int]):  # noqa: N801 -- SQL functions are written in lower case
    """Of a study's id: grows from one transaction that writes rungs to the next."""

    type = sa.BigInteger()
    inherit_cache = True


@in_dialects(postgresql="txid_snapshot_xmin(txid_current_snapshot())", sqlite=_NEXT)
class all_before(GenericFunction[int]):  # noqa: N801 -- as above
    """Of a study's id: whoever reads now sees all that was written in an order before it, for ever."""

    type = sa.BigInteger()
    inherit_cache = True


# Made once, as in `storage.queue.locks`.
_ITS = sa.bindparam("its", type_=sa.Integer())
_ALSO = {"reached_at": database_now(), "written": write_order(_ITS)}
_NEWER = sa.select(
    rung.c.trial_id, rung.c.rung, rung.c.bracket, rung.c.epoch, rung.c.value, all_before(_ITS)
).where(rung.c.study_id == _ITS, rung.c.written >= sa.bindparam("since"))
_FORGET = (
    rung.update()
    .where(rung.c.trial_id == sa.bindparam("trial"), rung.c.epoch > sa.bindparam("after"))
    .values(value=None, written=write_order(_ITS))
)


def write(connection: Connection, study_id: int, reached: Sequence[Rung]) -> None:
    """Trials have come to these rungs; one that was reached before has the new value."""
    if reached:
        rows = [{**vars(one), "study_id": study_id, "its": study_id} for one in reached]
        connection.execute(overwriting(connection.dialect.name, rung, "trial_id", "rung", **_ALSO), rows)


def forget_after(connection: Connection, trials: Sequence[Mapping[str, Any]]) -> None:
    """A `trial` of a study (`its`) goes on `after` a step: it has not come to later rungs.

    The rows stay, without a value, so that whoever keeps a copy learns of it.
    """
    connection.execute(_FORGET, trials)


def newer(connection: Connection, study_id: int, since: int, directions: int = 1) -> tuple[int, list[Rung]]:
    """What was written since a reading that returned `since` (0: all), some of it perhaps seen before."""
    rows = connection.execute(_newer(directions), {"its": study_id, "since": since}).all()
    found = [
        Rung(trial, at, bracket, epoch, value, tuple(more))
        for trial, at, bracket, epoch, value, _, *more in rows
    ]
    return (rows[0][5] if rows else since), found


@cache
def _newer(directions: int) -> sa.Select[Any]:
    """With what was reported at the rung in the further directions."""
    query, joined = _NEWER, cast(sa.FromClause, rung)
    for place in range(1, directions):
        its = metric.alias()
        same = (its.c.trial_id == rung.c.trial_id) & (its.c.step == rung.c.epoch)
        joined = joined.outerjoin(its, same & (its.c.name == objective_name(place)))
        query = query.add_columns(its.c.value)
    return query.select_from(joined)
