"""The other workers of this host: one whose process is gone is noticed at once, not when its leases end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hpo.worker.identity import host_key, is_alive
from hpo.worker.leftovers import end_leftovers
from storage.database.engine import Database, Transaction
from storage.queue import workers
from storage.queue.workers import Neighbour

log = logging.getLogger(__name__)


def neighbours(connection: Transaction) -> Sequence[Neighbour]:
    """The workers of this host that have not signed off, the caller among them."""
    return workers.of_host(connection, host_key())


def bury_dead(database: Database, among: Sequence[Neighbour]) -> None:
    """Free the tickets of those whose processes are gone; what their runners left is ended before that.

    Or it would go on beside the next attempt at the same trial.

    Raises:
        DatabaseUnreachableError: the database is away now.
    """
    dead = [one for one in among if not is_alive(one.pid, one.started)]
    for one in dead:
        left = end_leftovers(f"{one.id}/", one.runners)
        if left:
            log.warning("ended %d processes that the dead worker %s left behind", left, one.name)

    def bury(connection: Transaction) -> None:
        for one in dead:
            workers.bury(connection, database.clock, one.id)

    if dead:
        database.once(bury, write=True)
