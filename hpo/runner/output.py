"""Each attempt's output, kept: file descriptors 1 and 2 point at the attempt's log while it runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from storage.database.errors import ArtifactError
from storage.files.artifacts import ArtifactStore
from storage.files.local_files import LocalFiles

LOG_NAME = "log.txt"
LOOK_SECONDS = 0.5  # between two looks at a log's size
MIRROR_SECONDS = 5.0  # between two uploads of a log that grows
MIRROR_BYTES_A_SECOND = 1e6  # a large log is sent less often: each upload is all of it
_OF_ALL = b"This attempt was trained together with others. What all of them printed meanwhile:\n"
MIRROR_PATIENCE = 15.0  # seconds for a store that is away when the attempt ends


@contextmanager
def captured(store: ArtifactStore, folder: str, most: int) -> Iterator[None]:
    """Send everything this process prints, also from C, to `<folder>/log.txt` of the store.

    A local store's file grows as the attempt goes on; any other gets it every few seconds and when the
    attempt ends. When the log cannot be written, training goes on without one. One that grows beyond
    `most` bytes keeps its head and its tail and says so.
    """
    key = f"{folder}/{LOG_NAME}"
    with TemporaryDirectory() as scratch:
        here = LocalFiles(Path(scratch))
        log, mirrored = _opened(store, key, here)
        if log is None:
            yield
            return
        kept = os.dup(1), os.dup(2)
        _flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        ended = threading.Event()
        bounding = threading.Thread(target=_keep_bounded, args=(log, most, ended), daemon=True)
        bounding.start()
        mirror = _Mirror(store, key, here) if mirrored else None
        try:
            yield
        finally:
            _flush()
            ended.set()
            bounding.join()
            os.close(log)
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])
            _open_again()
            if mirror is not None:
                mirror.close()


class SharedLog:
    """What a process prints that runs several attempts at once: nobody can tell which of them it is of."""

    def __init__(self, most: int) -> None:
        self._most = most  # bytes of an attempt's log
        self._parts: dict[str, tuple[ArtifactStore, int]] = {}  # by folder: where each begins
        self._mirroring = threading.Lock()
        self._file = TemporaryFile()  # noqa: SIM115 -- as long as the process
        _flush()
        os.dup2(self._file.fileno(), 1)
        os.dup2(self._file.fileno(), 2)
        threading.Thread(target=self._mirror, name="log mirror", daemon=True).start()

    @contextmanager
    def part(self, store: ArtifactStore, folder: str) -> Iterator[None]:
        """Keep what is printed in this block as `<folder>/log.txt`, within seconds; of much the last part."""
        with self._mirroring:
            if not self._parts:
                self._leave_out(0)
            self._parts[folder] = store, os.fstat(self._file.fileno()).st_size
        try:
            yield
        finally:
            with self._mirroring:
                said = self._said(folder)
                del self._parts[folder]
            _bring(store, folder, said, MIRROR_PATIENCE)

    def _said(self, folder: str) -> bytes:
        """What was printed since its part began."""
        _flush()
        log, (_, since) = self._file.fileno(), self._parts[folder]
        return os.pread(log, self._most, max(since, os.fstat(log).st_size - self._most))

    def _leave_out(self, kept: int) -> None:
        """All but so many bytes at the end; what is printed in this moment is lost."""
        log = self._file.fileno()
        size = os.fstat(log).st_size
        end = os.pread(log, kept, max(0, size - kept))
        os.ftruncate(log, 0)
        os.lseek(log, 0, os.SEEK_SET)
        os.write(log, end)
        cut = size - len(end)
        self._parts = {folder: (store, max(0, since - cut)) for folder, (store, since) in self._parts.items()}

    def _mirror(self) -> None:
        """What is printed outlives a process that is killed, and the file stays bounded while one lives."""
        sent = brought = 0
        while True:
            time.sleep(max(MIRROR_SECONDS, brought / MIRROR_BYTES_A_SECOND))
            brought = 0
            _flush()
            size = os.fstat(self._file.fileno()).st_size
            for folder in list(self._parts) if size != sent else ():
                with self._mirroring:
                    if folder in self._parts:
                        said = self._said(folder)
                        _bring(self._parts[folder][0], folder, said, 0.0)
                        brought += len(said)
            if size > 4 * self._most:
                with self._mirroring:
                    self._leave_out(self._most)
            sent = size


def _bring(store: ArtifactStore, folder: str, said: bytes, patience: float) -> None:
    if said:
        with suppress(ArtifactError, OSError):
            store.put(f"{folder}/{LOG_NAME}", _OF_ALL + said, patience)


def _keep_bounded(log: int, most: int, ended: threading.Event) -> None:
    """Leave out the middle of a log that has grown too large: when nobody writes, and when the attempt ends.

    Of one that is written all the time it is left out at twice the limit, and what is printed in that moment
    is lost.
    """
    over, before = False, 0
    while not over:
        over = ended.wait(LOOK_SECONDS)
        with suppress(OSError):
            size = os.fstat(log).st_size
            if size > 2 * most or (size > most and (over or size == before)):
                _leave_out_middle(log, most)
            before = size


def _leave_out_middle(log: int, most: int) -> None:
    """Keep a quarter of the limit at each end, with a line between; who prints appends at what is the end."""
    quarter = most // 4
    size = os.fstat(log).st_size
    tail = os.pread(log, quarter, size - quarter)
    said = f"\n--- {size - 2 * quarter:,} bytes left out: a log keeps at most {most:,} ---\n"
    os.ftruncate(log, quarter)
    os.write(log, said.encode() + tail)


class _Mirror:
    """Brings the growing log to the store, so that a running or killed attempt's log can be read too."""

    def __init__(self, store: ArtifactStore, key: str, here: LocalFiles) -> None:
        self._store, self._key, self._here = store, key, here
        self._sent = 0  # bytes
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Bring the rest; waits a moment for a store that is away."""
        self._closing.set()
        self._thread.join(MIRROR_PATIENCE)
        try:
            self._send(MIRROR_PATIENCE)
        except (ArtifactError, OSError) as error:
            print(f"this attempt's log was not kept: {error}", file=sys.stderr)

    def _run(self) -> None:
        while not self._closing.wait(max(MIRROR_SECONDS, self._sent / MIRROR_BYTES_A_SECOND)):
            with suppress(ArtifactError, OSError):
                self._send(0.0)

    def _send(self, patience: float) -> None:
        content = self._here.read(LOG_NAME)
        if len(content) != self._sent:
            self._store.put(self._key, content, patience)
            self._sent = len(content)


def _opened(store: ArtifactStore, key: str, here: LocalFiles) -> tuple[int | None, bool]:
    """Where the log is written, and whether that is a scratch file `here` which a mirror must send."""
    try:
        log = store.open_to_append(key)
        return (here.open_to_append(LOG_NAME), True) if log is None else (log, False)
    except (ArtifactError, OSError) as error:
        print(f"no log for this attempt: {error}", file=sys.stderr)
        return None, False


def _open_again() -> None:
    """What the objective closed: the next trial, and we ourselves, print too."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name).closed:
            setattr(sys, name, open(descriptor, "w", buffering=1, closefd=False))  # noqa: SIM115


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed by the objective
            continue
