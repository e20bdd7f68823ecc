"""What the database and the journal say of a search on several machines."""

from __future__ import annotations

import re

import sqlalchemy as sa

from storage.records import AttemptState
from storage.tables import attempt, worker
from tests.faults.lab import Lab


def trials_on(lab: Lab, host: str, state: AttemptState = AttemptState.RUNNING) -> int:
    """Attempts of workers on a machine that are in a state."""
    query = (
        sa.select(sa.func.count())
        .select_from(attempt.join(worker, worker.c.id == attempt.c.worker_id))
        .where(worker.c.host == host, attempt.c.state == state)
    )
    return int(lab.open().read(lambda connection: connection.scalar(query) or 0))


def resumed(lab: Lab) -> list[int]:
    """From which step each trial that was not begun anew went on, by what really ran."""
    if not lab.journal.exists():
        return []
    return [int(step) for step in re.findall(r"^from-([1-9]\d*) ", lab.journal.read_text(), re.MULTILINE)]


def audit_line(lab: Lab) -> str:
    """The sum of `hpo audit`, which must find nothing broken."""
    return lab.start("audit", "study").wait().check().out.strip().splitlines()[-1]
