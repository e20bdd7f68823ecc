"""Trials that keep files, as runners make them, and what is left of those files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from storage.database.engine import Database
from storage.database.records import KeptFile, StudyRow, TicketState
from storage.database.tables import artifact
from storage.files import checkpoints, kept_files
from storage.files.artifacts import ArtifactStore, digest
from storage.files.kept_files import MODEL
from tests.support.shared import Party


def spec(*directions: str) -> dict[str, Any]:
    return {"directions": list(directions), "spec": {"directions": list(directions)}}


def keep(party: Party, store: ArtifactStore, name: str, content: bytes, count: int = 1) -> str | None:
    """As a runner does: by content where the study has it; returns the path of a new file."""
    row, sha256 = party.study, digest(content)
    if party.writer.keep_stored_file(row.id, name, sha256, len(content)):
        return None
    lease = party.writer.lease
    folder = checkpoints.study_key(row.uid, row.name)
    key = checkpoints.object_key(folder, sha256, lease.ticket_id, lease.attempt, count)
    store.put(key, content)
    party.writer.keep_file(row.id, KeptFile(name, key, sha256, len(content)))
    return key


def finished(
    party: Party,
    store: ArtifactStore,
    *values: float,
    content: bytes | None = None,
    constraints: Mapping[str, float] | None = None,
) -> int:
    """A complete trial with a model of its own, or of this content; returns its number."""
    _, trial = party.begin()
    keep(party, store, MODEL, content or f"model {trial.number}".encode())
    keep(party, store, "evaluation.json", b"{}")
    party.writer.deliver(TicketState.COMPLETE, values, constraints=constraints)
    return trial.number


def weights(database: Database, store: ArtifactStore, row: StudyRow) -> tuple[list[int], list[bytes]]:
    """Trials with weights by number (ids count from the first), and the models that lie in the store."""
    with database.transaction(write=False) as connection:
        found = connection.execute(
            sa.select(artifact.c.trial_id, artifact.c.path)
            .where(artifact.c.name.in_(kept_files.WEIGHTS))
            .order_by(artifact.c.trial_id)
        ).all()
        first = connection.scalar(sa.select(sa.func.min(artifact.c.trial_id))) or 0
    contents = [store.get(key) for key in store.all_files(checkpoints.study_key(row.uid, row.name))]
    return [row.trial_id - first for row in found], sorted(c for c in contents if c.startswith(b"model"))
