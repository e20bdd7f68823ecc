"""The metrics of a trial at the step that counts: the one its result is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.tables import metric
from storage.history import columns


def counted(
    connection: Connection, trial_id: int, names: Iterable[str], values: Sequence[float] | None
) -> dict[str, float | None]:
    """Named metrics of a trial with these values, at the step that counts.

    What was not logged there counts as it was last logged before, else as it was first logged after; None
    where it never was, or is NaN there.
    """
    step = _step_that_counts(connection, trial_id, values)
    distance: sa.ColumnElement[int] = -metric.c.step
    order = [distance] if step is None else [metric.c.step > step, sa.func.abs(metric.c.step - step)]
    query = sa.select(metric.c.value).where(metric.c.trial_id == trial_id).order_by(*order).limit(1)
    return {name: connection.scalar(query.where(metric.c.name == name)) for name in names}


def _step_that_counts(connection: Connection, trial_id: int, values: Sequence[float] | None) -> int | None:
    """Our own objectives name it; else the last that reported the result, or the last; None: no report."""
    training = columns.attributes_of(connection, _this(trial_id)).get(trial_id, {}).get("training")
    named = training.get("counted_epoch") if isinstance(training, dict) else None
    if isinstance(named, int):
        return named
    reports = columns.reports_of(connection, _this(trial_id)).get(trial_id, {})
    of_result = [step for step, value in reports.items() if values and value == values[0]]
    return max(of_result or reports, default=None)


def _this(trial_id: int) -> columns.Mine:
    return lambda column: column == trial_id
