"""Row 9: what lies in the artifact store was damaged, or there is no room left for more."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpo.runner.checkpoint import CheckpointStore, newest_readable
from hpo.weights import dump_state
from storage.files.artifacts import ArtifactStore
from storage.files.checkpoints import file_name
from tests.faults.lab import Lab
from tests.faults.rows import Scale

TRIAL = "study-00000000/0"


class Bomb:
    """A pickle that would leave a file behind if anybody ran it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "empty": empty,
    "gone": Path.unlink,
}


def saved(folder: Path, steps: int) -> tuple[ArtifactStore, list[Path]]:
    """A store in which attempt 1 saved `steps` checkpoints; the files that are kept, oldest first."""
    store = ArtifactStore(folder.as_uri())
    checkpoints = CheckpointStore(store, TRIAL, 1, None)
    for step in range(1, steps + 1):
        checkpoints.save({"step": step, "weights": [0.5] * 200}, step)
    return store, sorted((folder / TRIAL / "1").glob("checkpoint-*"))


def plant(store: ArtifactStore, step: int, content: bytes) -> None:
    """Put a checkpoint with a digest that fits, as somebody who may write to the store can."""
    store.put(f"{TRIAL}/1/{file_name(step, content)}", content)


@contextmanager
def full_disk(store: ArtifactStore) -> Iterator[None]:
    """Nothing more can be written."""

    def no_room(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._files, "write", no_room)
        yield


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """What is said in the log meanwhile."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep()
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


def resumed_state(store: ArtifactStore) -> Any:
    """What attempt 2 finds."""
    found = newest_readable(store, TRIAL, before_attempt=2)
    return CheckpointStore(store, TRIAL, 2, found).load()


def table_taken_away(lab: Lab, scale: Scale) -> str:
    """The database answers, but cannot be used: the worker says so and leaves, and no trial is charged."""
    lab.create(trials=1, fixed={"steps": 1000, "step_seconds": 0.05})
    worker = lab.worker()
    lab.wait(lambda: lab.journal_lines("began"), "the trial began")

    def rename(old: str, new: str) -> None:
        lab.open().write(lambda connection: connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}"))

    rename("trial_intermediate_values", "elsewhere")
    left = worker.wait()
    rename("elsewhere", "trial_intermediate_values")
    assert left.code == 1, left
    assert "cannot be used" in left.err, left.err
    assert "Traceback" not in left.err, left.err
    assert lab.attempts() == {"released": 1}, lab.ended_why("failed")
    return "1 ticket given back, 0 failed; the worker said what is missing"


def damaged_checkpoints(lab: Lab, scale: Scale) -> str:
    """The one before is used, or a clean start is made; the log says so; no code is run."""
    for name, damage in DAMAGES.items():
        store, files = saved(lab.folder / name.replace(" ", "-"), 3)
        with log_lines() as lines:
            damage(files[-1])
            assert resumed_state(store)["step"] == 2, name
            for file in files[:-1]:
                damage(file)
            assert resumed_state(store) is None, name
        assert name == "gone" or any("passed over" in line for line in lines), name
    store, _ = saved(lab.folder / "bomb", 3)
    mark = lab.folder / "executed"
    with log_lines() as lines:
        plant(store, 9, pickle.dumps(Bomb(mark)))
        plant(store, 8, dump_state({"step": Bomb(mark)}))
        plant(store, 7, b"not a checkpoint at all")
        assert resumed_state(store)["step"] == 3
    assert sum("passed over" in line for line in lines) >= 3, lines
    assert not mark.exists()
    store, _ = saved(lab.folder / "full", 2)
    checkpoints = CheckpointStore(store, TRIAL, 2, newest_readable(store, TRIAL, before_attempt=2))
    with log_lines() as lines, full_disk(store):
        checkpoints.save({"step": 3}, 3)
    assert any("No space left" in line for line in lines), lines
    assert checkpoints.latest == 2
    return (
        f"{len(DAMAGES)} kinds of damage passed over, 3 hostile files refused, 0 executed, full disk survived"
    )
