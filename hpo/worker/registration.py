"""A worker's own record in the database: written at its start, signed off at its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from hpo.fingerprint import versions
from hpo.worker.devices import Share
from hpo.worker.identity import Identity
from hpo.worker.neighbours import bury_dead, neighbours
from storage.database.engine import Database, Transaction
from storage.database.errors import StorageError
from storage.queue import studies, workers
from storage.queue.workers import Neighbour

log = logging.getLogger(__name__)


def sign_on(
    database: Database, me: Identity, study: str | None, shares: Sequence[Share], *, lease: float
) -> None:
    """Record the worker, and free what dead workers of this host still hold. No study: it serves all.

    Raises:
        UnknownStudyError: the study is gone.
        DatabaseUnreachableError
    """

    def write(connection: Transaction) -> Sequence[Neighbour]:
        workers.register(
            connection,
            database.clock,
            worker_id=me.id,
            name=me.name,
            host=me.host,
            host_key=me.host_key,
            pid=me.pid,
            pid_started=me.pid_started,
            lease_seconds=lease,
            study_id=None if study is None else studies.get(connection, study).id,
            devices=[share.shown for share in shares],
            versions=versions(),
        )
        return neighbours(connection)

    others = database.write(write)
    try:
        bury_dead(database, others)
    except StorageError as error:  # the worker is registered, and its heartbeats bury them
        log.warning("dead workers of this host keep their trials for now: %s", error)


def sign_off(database: Database, me: Identity, *, hurry: bool) -> None:
    """Record that the worker left in good order; `hurry`: a database that is away is not waited for."""
    verb = partial(workers.sign_off, clock=database.clock, worker_id=me.id)
    try:
        if hurry:
            database.once(verb, write=True)
        else:
            database.write(verb)
    except StorageError as error:
        log.warning("could not sign off: %s", error)
