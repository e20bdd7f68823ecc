"""Checkpoints of one trial: the whole loop state, written aside then renamed, with its digest in the name.

`torch.load` missed 51 of 60 flipped bits in a saved file, so the sha256 is checked before anything is
unpickled, and only tensors and plain values are (`weights_only=True`).
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass
from typing import Any

from storage.artifacts import ArtifactStore, digest
from storage.errors import ArtifactError

log = logging.getLogger(__name__)

KEPT = 2  # newest checkpoints of an attempt: one may be damaged
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{64})\.pt")


@dataclass(frozen=True)
class Saved:
    """One whole checkpoint."""

    step: int
    attempt: int
    key: str
    content: bytes


def trial_key(study_uid: str, study: str, trial: int) -> str:
    """Directory of a trial in the artifact store: readable, and never reused by a later study."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-")[:60] or "study"
    return f"{readable}-{study_uid[:8]}/{trial}"


def newest(store: ArtifactStore, trial: str, before_attempt: int) -> Saved | None:
    """The newest whole checkpoint of a trial's earlier attempts; damaged ones are said and passed over."""
    attempts = sorted(
        (int(name) for name in store.names(trial) if name.isdigit() and int(name) < before_attempt),
        reverse=True,
    )
    found = [
        (int(match[1]), attempt, match[2], f"{trial}/{attempt}/{match[0]}")
        for attempt in attempts
        for name in store.names(f"{trial}/{attempt}")
        if (match := _NAME.fullmatch(name))
    ]
    for step, attempt, sha256, key in sorted(found, reverse=True):
        try:
            return Saved(step, attempt, key, store.get(key, sha256))
        except ArtifactError as error:
            log.warning("checkpoint of step %d is passed over: %s", step, error)
    return None


class CheckpointStore:
    """What an objective sees as `trial.checkpoint`.

    Args:
        store: where files are kept.
        trial: the trial's directory there.
        attempt: number of this attempt; each writes a directory of its own, so that a stale one
            cannot touch a later one's.
        resumed: the checkpoint this attempt goes on from, already checked.
    """

    def __init__(self, store: ArtifactStore, trial: str, attempt: int, resumed: Saved | None) -> None:
        self._store = store
        self._folder = f"{trial}/{attempt}"
        self._resumed = resumed
        self._kept: list[str] = []
        self._latest: Saved | None = resumed

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return None if self._latest is None else self._latest.step

    def save(self, state: dict[str, Any], step: int) -> None:
        """Keep `state` as the state after `step`; a full disk is said in the log and training goes on."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        key = f"{self._folder}/checkpoint-{int(step):09d}-{digest(content)}.pt"
        try:
            self._store.put(key, content)
        except ArtifactError as error:
            log.warning("checkpoint of step %d was not saved: %s", step, error)
            return
        self._latest = Saved(int(step), 0, key, content)
        if key not in self._kept:
            self._kept.append(key)
        for old in self._kept[:-KEPT]:
            self._store.remove(old)
        del self._kept[:-KEPT]

    def load(self) -> dict[str, Any] | None:
        """State of the newest whole checkpoint with its tensors on the CPU; None when there is none."""
        if self._latest is None:
            return None
        state: dict[str, Any] = read_state(self._latest.content)
        return state


def read_state(content: bytes) -> Any:
    """Tensors and plain values from a checkpoint's bytes; code in it is refused, never run."""
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
