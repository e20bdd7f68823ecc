"""What an objective sees as `trial.checkpoint`: the whole loop state, saved whole or not at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import first_line
from hpo.weights import dump_state, read_state
from storage.database.errors import ArtifactError
from storage.files.artifacts import ArtifactStore
from storage.files.checkpoints import Saved, file_name, newest

if TYPE_CHECKING:
    from objectives.protocol import Resting

log = logging.getLogger(__name__)

MEMORY = 64 * 1024 * 1024  # bytes of states that a runner holds of trials that wait to be promoted
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
        return first_line(error)
    return None if isinstance(state, dict) else f"it holds a {type(state).__name__}, not a state"


@dataclass(frozen=True)
class HeldState:
    """A state after `step` in this process alone; the newest one that was saved is after `saved`."""

    step: int
    saved: int | None
    resting: Resting


class Memory:
    """The states that attempts of this process have held, the newest `MEMORY` bytes. For any thread."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], tuple[HeldState, int]] = {}  # with its bytes
        self._bytes = 0
        self._changing = threading.Lock()

    def put(self, trial: str, attempt: int, held: HeldState) -> None:
        """Hold the state that this attempt at a trial has left."""
        size = held.resting.nbytes
        with self._changing:
            self._held[trial, attempt] = held, size
            self._bytes += size
            while self._bytes > MEMORY:
                self._bytes -= self._held.pop(next(iter(self._held)))[1]

    def take(self, trial: str, attempt: int) -> HeldState | None:
        """Hand out the state that this attempt has left, if it is still here; it is held no longer."""
        with self._changing:
            held, size = self._held.pop((trial, attempt), (None, 0))
            self._bytes -= size
            return held


class CheckpointStore:
    """What an objective sees as `trial.checkpoint`.

    Each attempt writes a directory of its own, so that a stale one cannot touch a later one's.
    """

    def __init__(
        self,
        store: ArtifactStore,
        trial: str,  # the trial's directory there
        attempt: int,
        resumed: Saved | None,  # the checkpoint this attempt goes on from, already checked
        last: int = 2,  # how many of its newest checkpoints an attempt keeps
        on_advance: Callable[[], None] = lambda: (
            None
        ),  # called once, when a later one than `resumed` is saved
        # Waits until what the trial has reported is committed: a checkpoint that may be seen before would
        # leave a hole in the curve of whoever goes on from it.
        before_save: Callable[[], None] = lambda: None,
        memory: Memory | None = None,  # where states are held; None: they are saved
        held: HeldState | None = None,  # the state this attempt goes on from, where it was held
    ) -> None:
        self._store = store.with_patience(PATIENCE)
        self._last = last
        self._folder = f"{trial}/{attempt}"
        self._place = trial, attempt
        self._memory = memory
        self._held = held
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
        return self.saved if self._held is None else self._held.step

    @property
    def saved(self) -> int | None:
        """Step of the newest that is more than held, or None."""
        if self._latest is not None:
            return self._latest.step
        return None if self._held is None else self._held.saved

    @property
    def held(self) -> Resting | None:
        """What was held after the newest step, in this very process; None where nothing was."""
        return None if self._held is None else self._held.resting

    def hold(self, resting: Resting, step: int) -> None:
        """Keep what nobody changes any more for a trial that may go on in this process.

        Elsewhere, and when the process is gone, it goes on from what was saved.
        """
        if self._memory is None:
            self.save(resting.state(), step)
        else:
            self._memory.put(*self._place, HeldState(step, self.saved, resting))

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
        self._latest, self._held = Saved(int(step), 0, key, content), None
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
        if self._held is not None:
            return self._held.resting.state()
        if self._latest is None:
            return None
        state: dict[str, Any] = read_state(self._latest.content)
        return state
