"""Workers' records in the database: one's own, and those of this host whose processes are gone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from hpo.fingerprint import versions
from hpo.worker.devices import Share
from hpo.worker.identity import Identity, host_key, is_alive
from hpo.worker.leftovers import end_leftovers
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
            worker_id=me.id,
            lease_seconds=lease,
            **{name: value for name, value in vars(me).items() if name != "id"},
            study_id=None if study is None else studies.get(connection, study).id,
            devices=[share.shown for share in shares],
            versions=versions(),
        )
        return neighbours(connection)

    bury_dead(database, database.write(write))


def sign_off(database: Database, me: Identity, *, hurry: bool) -> None:
    """Record that the worker left in good order; `hurry`: a database that is away is not waited for."""
    verb = partial(workers.sign_off, worker_id=me.id)
    try:
        if hurry:
            database.once(verb, write=True)
        else:
            database.write(verb)
    except StorageError as error:
        log.warning("could not sign off: %s", error)


def neighbours(connection: Transaction) -> Sequence[Neighbour]:
    """The workers of this host that have not signed off, the caller among them."""
    return workers.of_host(connection, host_key())


def bury_dead(database: Database, among: Sequence[Neighbour]) -> None:
    """Free the tickets of those whose processes are gone; what their runners left is ended before that.

    Or it would go on beside the next attempt at the same trial. Where that cannot be now, a later heartbeat
    does it.
    """
    dead = [one for one in among if not is_alive(one.pid, one.started)]
    for one in dead:
        left = end_leftovers(f"{one.id}/", one.runners)
        if left:
            log.warning("ended %d processes that the dead worker %s left behind", left, one.name)

    def bury(connection: Transaction) -> None:
        for one in dead:
            workers.bury(connection, one.id)

    if dead:
        try:
            database.once(bury, write=True)
        except StorageError as error:
            log.warning("dead workers of this host keep their trials for now: %s", error)
