"""Lost workers are noticed while a dashboard runs, even where nothing else is alive."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy.engine import Connection

from hpo.dashboard.board import Board
from storage import leases, workers
from storage.engine import is_unreachable

log = logging.getLogger(__name__)


async def keep_house(board: Board) -> None:
    """Every third of a lease end what has expired; ends when cancelled.

    Only after the database answered for one whole lease: after an outage everybody first gets the
    chance to renew.
    """
    alive_since: float | None = None
    while True:
        await asyncio.sleep(board.lease / 3)
        try:
            waited = alive_since is not None and time.monotonic() - alive_since > board.lease
            await asyncio.to_thread(_look, board, waited)
        except Exception as error:
            alive_since = None
            if not is_unreachable(error):
                log.exception("housekeeping failed")
        else:
            alive_since = alive_since or time.monotonic()


def _look(board: Board, may_reap: bool) -> None:
    def reap(connection: Connection) -> None:
        leases.reap_expired(connection, board.database.clock)
        workers.mark_silent(connection, board.database.clock, board.lease)

    if may_reap:
        board.database.write(reap)
    else:
        board.database.read(lambda connection: None)
