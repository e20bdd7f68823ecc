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
    where it never was, or is NaN there. Our own objectives name the step, and of folds and seeds, each
    of which counts at a step of its own, the values.
    """
    training = columns.attributes_of(connection, columns.among([trial_id])).get(trial_id, {}).get("training")
    training = training if isinstance(training, dict) else {}
    step = training.get("counted_epoch")
    if not isinstance(step, int):
        step = _step_of_result(connection, trial_id, values)
    distance: sa.ColumnElement[int] = -metric.c.step
    order = [distance] if step is None else [metric.c.step > step, sa.func.abs(metric.c.step - step)]
    query = sa.select(metric.c.value).where(metric.c.trial_id == trial_id).order_by(*order).limit(1)
    own = training.get("counted")
    return {
        name: own[name]
        if isinstance(own, dict) and isinstance(own.get(name), float)
        else connection.scalar(query.where(metric.c.name == name))
        for name in names
    }


def _step_of_result(connection: Connection, trial_id: int, values: Sequence[float] | None) -> int | None:
    """The last that reported the result, else the last; None without a report."""
    reports = columns.reports_of(connection, columns.among([trial_id])).get(trial_id, {})
    of_result = [step for step, value in reports.items() if values and value == values[0]]
    return max(of_result or reports, default=None)
