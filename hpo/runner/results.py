"""A finished result that the database cannot take now is kept in the artifact store.

So it is not lost when its runner has to go: whoever gets the ticket next delivers it under its own lease
instead of training again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from storage.database.errors import ArtifactError
from storage.database.records import TicketState
from storage.files import checkpoints
from storage.files.artifacts import IMPATIENT_SECONDS, ArtifactStore, digest

log = logging.getLogger(__name__)

FILE = "result.json"


@dataclass(frozen=True)
class Finished:
    """What an attempt would have delivered."""

    state: TicketState  # complete, pruned or diverged
    values: tuple[float, ...] | None
    peak_memory: float | None  # bytes
    metrics: Mapping[int, Mapping[str, float]]  # by step: logged, but not written yet
    code: Mapping[str, Any] | None = None  # fingerprint of what it ran on
    error: str | None = None  # how a diverged trial said so
    reports: Mapping[int, float] = field(default_factory=dict)  # by step: some may not be written yet
    constraints: Mapping[str, float] = field(default_factory=dict)  # by name


def keep(store: ArtifactStore, folder: str, attempt: int, result: Finished) -> None:
    """Write the result beside the attempt's log; when that fails it is said in the log."""
    try:
        store.put(f"{folder}/{attempt}/{FILE}", json.dumps(asdict(result)).encode())
    except ArtifactError as error:
        log.warning("the result is kept in memory alone: %s", error)


def keep_code(store: ArtifactStore, folder: str, left: list[bytes]) -> None:
    """Store the study's own code before a first result makes it the study's, once; no trial fails by that."""
    for content in left[:]:
        try:
            store.put(checkpoints.code_key(folder, digest(content)), content, IMPATIENT_SECONDS)
        except ArtifactError as error:
            log.warning("the study's code is not kept: %s", error)
    left.clear()


def find(store: ArtifactStore, folder: str, earlier: range, directions: int) -> Finished | None:
    """The kept result of one of these attempts at this trial; None when there is none that can be read."""
    attempts = sorted((int(name) for name in store.names(folder) if name.isdigit()), reverse=True)
    for attempt in attempts:
        if attempt in earlier and FILE in store.names(f"{folder}/{attempt}"):
            try:
                return _read(store.get(f"{folder}/{attempt}/{FILE}"), directions)
            except (ArtifactError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("the kept result of attempt %d cannot be used: %s", attempt, error)
    return None


def remove(store: ArtifactStore, folder: str, up_to_attempt: int) -> None:
    """Delete what was kept for this trial, once it is delivered; what cannot be deleted is harmless."""
    try:
        for name in store.names(folder):
            if name.isdigit() and int(name) <= up_to_attempt and FILE in store.names(f"{folder}/{name}"):
                store.remove(f"{folder}/{name}/{FILE}")
    except ArtifactError as error:
        log.warning("the kept result, delivered now, was not removed: %s", error)


def forget_trial(store: ArtifactStore, folder: str, up_to_attempt: int) -> None:
    """Remove kept results and checkpoints, which other code has left: the next attempt begins anew.

    Raises:
        ArtifactError: the store is away.
    """
    remove(store, folder, up_to_attempt)
    for key in checkpoints.stored(store, folder):
        store.remove(key)


def _read(content: bytes, directions: int) -> Finished:
    from pydantic import TypeAdapter  # dear to import, and few attempts find a result

    found: Finished = TypeAdapter(Finished).validate_python(json.loads(content))
    values = found.values or ()
    if found.state not in (TicketState.COMPLETE, TicketState.PRUNED, TicketState.DIVERGED):
        raise ValueError(f"its state is {found.state}")
    if found.state is TicketState.COMPLETE and len(values) != directions:
        raise ValueError(f"it has {len(values)} values, not {directions}")
    if found.state is TicketState.COMPLETE and any(map(math.isnan, values)):
        raise ValueError("a value of it is not a number")
    return found
