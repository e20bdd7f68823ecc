"""What the database and the journal say of a search on several machines."""

from __future__ import annotations

import re

import sqlalchemy as sa

from storage.database.records import AttemptState
from storage.database.tables import attempt, worker
from tests.faults.lab import Lab


def trials_on(lab: Lab, host: str, state: AttemptState = AttemptState.RUNNING) -> list[int]:
    """Numbers of the trials of which a machine has, or had, an attempt in a state."""
    query = (
        sa.select(attempt.c.trial_number)
        .select_from(attempt.join(worker, worker.c.id == attempt.c.worker_id))
        .where(worker.c.host == host, attempt.c.state == state, attempt.c.trial_number.is_not(None))
    )
    return lab.open().read(lambda connection: [int(number) for number in connection.scalars(query)])


def checkpoint_on(lab: Lab, host: str) -> bool:
    """Whether a trial that runs on a machine has saved a checkpoint."""
    saved = {int(line[1]) for line in lab.journal_lines("saved-2")}
    return any(number in saved for number in trials_on(lab, host))


def resumed(lab: Lab) -> list[int]:
    """From which step each trial that was not begun anew went on, by what really ran."""
    if not lab.journal.exists():
        return []
    return [int(step) for step in re.findall(r"^from-([1-9]\d*) ", lab.journal.read_text(), re.MULTILINE)]


def audit_line(lab: Lab) -> str:
    """The sum of `hpo audit`, which must find nothing broken."""
    return lab.start("audit", "study").wait().check().out.strip().splitlines()[-1]
