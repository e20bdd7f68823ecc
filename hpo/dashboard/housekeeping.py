"""Lost workers are noticed while a dashboard runs, even where nothing else is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hpo.dashboard.board import Board
from hpo.worker.notifier import Notifier
from hpo.worker.registration import bury_dead, neighbours
from storage.database.engine import Database, Transaction
from storage.queue import workers
from storage.queue.witness import Witness
from storage.queue.workers import Neighbour


async def keep_house(board: Board) -> None:
    """Every third of a lease end what has expired, as a worker does; ends when cancelled."""
    witness = Witness(board.database, board.lease, board.lease / 3)
    notifier = Notifier(board.database, board.lease / 3)
    while True:
        await asyncio.sleep(board.lease / 3)
        await asyncio.to_thread(look_after, board.database, witness)
        await asyncio.to_thread(notifier.look)


def look_after(database: Database, witness: Witness) -> None:
    """One heartbeat of the dashboard, and what follows from it."""

    def ask(connection: Transaction) -> tuple[Sequence[Neighbour], float | None]:
        return neighbours(connection), workers.bear_witness(connection)

    here = witness.beat(ask)
    if here is None:
        return
    bury_dead(database, here)
    witness.reap()
