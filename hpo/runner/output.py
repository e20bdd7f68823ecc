"""Each attempt's output, kept: file descriptors 1 and 2 point at the attempt's log while it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.artifacts import ArtifactStore
from storage.errors import ArtifactError

LOG_NAME = "log.txt"


@contextmanager
def captured(store: ArtifactStore, folder: str) -> Iterator[None]:
    """Send everything this process prints, also from C, to `<folder>/log.txt` of the store.

    A local store's file grows as the attempt goes on; any other gets it when the attempt ends. When
    the log cannot be written, training goes on without one.
    """
    root = store.local_root
    with TemporaryDirectory() as scratch:
        target = (root or Path(scratch)) / folder / LOG_NAME
        log = _opened(target)
        if log is None:
            yield
            return
        kept = os.dup(1), os.dup(2)
        _flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])
            if root is None:
                _upload(store, f"{folder}/{LOG_NAME}", target)


def _opened(target: Path) -> int | None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        print(f"no log for this attempt: {error}", file=sys.stderr)
        return None


def _upload(store: ArtifactStore, key: str, file: Path) -> None:
    try:
        store.put(key, file.read_bytes())
    except (ArtifactError, OSError) as error:
        print(f"this attempt's log was not kept: {error}", file=sys.stderr)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed by the objective
            continue
