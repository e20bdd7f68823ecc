"""A claim for one place, as most tests make it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from storage.database.records import Claim, NothingToClaim
from storage.queue import tickets


def claim_next(
    connection: Connection,
    study_id: int,
    worker_id: str,
    runner: int,
    device: str,
    lease_seconds: float,
    takes: tickets.Takes = None,
    slot: int = 0,
    **how: Any,
) -> Claim | NothingToClaim:
    """Lease the next ticket to a new attempt of this slot."""
    asks = study_id, worker_id, runner, device, lease_seconds, takes
    found, nothing = tickets.claim(connection, *asks, slots=[slot], **how)
    return nothing or found[slot]
