"""What an objective sees as `trial.checkpoint`: the whole loop state, saved whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hpo.weights import dump_state, read_state
from storage.database.errors import ArtifactError
from storage.files.artifacts import ArtifactStore
from storage.files.checkpoints import Saved, file_name, newest

log = logging.getLogger(__name__)

PATIENCE = 15.0  # seconds: training waits so long for a store that is away, then goes on without


def newest_readable(store: ArtifactStore, trial: str, before_attempt: int | None = None) -> Saved | None:
    """The newest checkpoint of earlier attempts (None: of all) that is whole and holds plain state alone.

    A file whose digest fits may still have been put there by somebody else: code in it is refused, and
    the checkpoint before it is used.
    """
    return newest(store, trial, before_attempt, _objection)


def _objection(content: bytes) -> str | None:
    try:
        state = read_state(content)
    except Exception as error:  # torch raises many kinds for what is not a checkpoint
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None if isinstance(state, dict) else f"it holds a {type(state).__name__}, not a state"


class CheckpointStore:
    """What an objective sees as `trial.checkpoint`.

    Args:
        store: where files are kept.
        trial: the trial's directory there.
        attempt: number of this attempt; each writes a directory of its own, so that a stale one
            cannot touch a later one's.
        last: how many of its newest checkpoints an attempt keeps.
        resumed: the checkpoint this attempt goes on from, already checked.
        on_advance: called once, when a later one than `resumed` is saved.
        before_save: waits until what the trial has reported is committed: a checkpoint that may be seen
            before would leave a hole in the curve of whoever goes on from it.
    """

    def __init__(
        self,
        store: ArtifactStore,
        trial: str,
        attempt: int,
        resumed: Saved | None,
        last: int = 2,
        on_advance: Callable[[], None] = lambda: None,
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store.with_patience(PATIENCE)
        self._last = last
        self._folder = f"{trial}/{attempt}"
        self._resumed = resumed
        self._kept: list[str] = []
        self._latest: Saved | None = resumed
        self._on_advance: Callable[[], None] | None = on_advance
        self._before_save = before_save

    @property
    def newest(self) -> Saved | None:
        """The newest whole checkpoint, or None."""
        return self._latest

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return None if self._latest is None else self._latest.step

    def save(self, state: dict[str, Any], step: int) -> None:
        """Keep `state` as the state after `step`; a full disk is said in the log and training goes on."""
        content = dump_state(state)
        key = f"{self._folder}/{file_name(int(step), content)}"
        self._before_save()
        try:
            self._store.put(key, content)
        except ArtifactError as error:
            log.warning("checkpoint of step %d was not saved: %s", step, error)
            return
        self._latest = Saved(int(step), 0, key, content)
        if key not in self._kept:
            self._kept.append(key)
        for old in self._kept[: -self._last]:
            with suppress(ArtifactError):  # left behind; whatever a finished trial left is removed later
                self._store.remove(old)
        del self._kept[: -self._last]
        if self._on_advance is not None and (self._resumed is None or step > self._resumed.step):
            tell, self._on_advance = self._on_advance, None
            tell()

    def load(self) -> dict[str, Any] | None:
        """State of the newest whole checkpoint with its tensors on the CPU; None when there is none."""
        if self._latest is None:
            return None
        state: dict[str, Any] = read_state(self._latest.content)
        return state
