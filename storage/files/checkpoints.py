"""Where checkpoints of a trial lie in the artifact store, and which of them is whole.

The sha256 is part of the name, so that one rename publishes content and digest together, and it is
checked before anything is unpickled: `torch.load` missed 51 of 60 flipped bits.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from storage.database.errors import ArtifactError, ArtifactsAwayError
from storage.database.records import KeptFile
from storage.files.artifacts import ArtifactStore, digest

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"  # the newest checkpoint of a trial that kept no model, as its weights
OBJECTS = "objects"  # directory of a study's kept files, by content
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{64})\.pt")


@dataclass(frozen=True)
class Saved:
    """One whole checkpoint."""

    step: int
    attempt: int
    key: str
    content: bytes

    def as_kept_file(self) -> KeptFile:
        """The checkpoint as the weights of its trial."""
        return KeptFile(CHECKPOINT, self.key, digest(self.content), len(self.content))


def study_key(study_uid: str, study: str) -> str:
    """Directory of a study in the artifact store: readable, and never reused by a later study."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-")[:60] or "study"
    return f"{readable}-{study_uid[:8]}"


def trial_key(study_uid: str, study: str, trial: int) -> str:
    """Directory of a trial in the artifact store; each attempt has one of its own below it."""
    return f"{study_key(study_uid, study)}/{trial}"


def object_key(study: str, sha256: str, trial: int, attempt: int, count: int) -> str:
    """Where the `count`-th file that an attempt keeps is stored; nobody else writes there.

    Args:
        study: the study's directory (`study_key`).
        sha256: of the file's content.
        trial: number of the trial.
        attempt: number of the attempt.
        count: from 1.
    """
    return f"{study}/{OBJECTS}/{sha256[:2]}/{sha256}.{trial}.{attempt}.{count}"


def code_key(study: str, sha256: str) -> str:
    """Where code of this content is stored with a study (`study_key`)."""
    return f"{study}/code/{sha256}.zip"


def file_name(step: int, content: bytes) -> str:
    """The name of a checkpoint after `step` (0 to 999,999,999) with this content."""
    return f"checkpoint-{step:09d}-{digest(content)}.pt"


def newest(
    store: ArtifactStore,
    trial: str,
    before_attempt: int | None = None,
    objection: Callable[[bytes], str | None] = lambda _content: None,
) -> Saved | None:
    """The newest whole checkpoint of a trial; damaged ones are said in the log and passed over.

    Args:
        store: where files are kept.
        trial: the trial's directory there (`trial_key`).
        before_attempt: look only at attempts of lower numbers.
        objection: says why a content cannot be used, or None.
    """
    for step, attempt, sha256, key in sorted(_listed(store, trial, before_attempt), reverse=True):
        try:
            content = store.get(key, sha256)
        except ArtifactsAwayError:
            raise  # it may be there: going on without it would lose what was trained
        except ArtifactError as error:
            log.warning("checkpoint of step %d is passed over: %s", step, error)
            continue
        why = objection(content)
        if why is None:
            return Saved(step, attempt, key, content)
        log.warning("checkpoint of step %d is passed over: %s", step, why)
    return None


def last_step(store: ArtifactStore, trial: str) -> int | None:
    """The step of a trial's newest checkpoint, as its name says; None where it has none.

    Raises:
        ArtifactError: the store cannot tell now.
    """
    return max((step for step, *_ in _listed(store, trial)), default=None)


def stored(store: ArtifactStore, trial: str) -> list[str]:
    """Keys of a trial's checkpoints, of every attempt.

    Raises:
        ArtifactError: the store cannot tell now.
    """
    return [key for *_, key in _listed(store, trial)]


def _listed(
    store: ArtifactStore, trial: str, before_attempt: int | None = None
) -> list[tuple[int, int, str, str]]:
    """Step, attempt, digest and key of a trial's checkpoints; of attempts of lower numbers than this."""
    attempts = [int(name) for name in store.names(trial) if name.isdigit()]
    return [
        (int(match[1]), attempt, match[2], f"{trial}/{attempt}/{match[0]}")
        for attempt in attempts
        if before_attempt is None or attempt < before_attempt
        for name in store.names(f"{trial}/{attempt}")
        if (match := _NAME.fullmatch(name))
    ]
