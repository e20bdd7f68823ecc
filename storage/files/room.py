"""A file system without room: said which one, how much it holds, and what is left of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_SAYINGS = ("no space left on device", "disk quota exceeded", "disk is full", "pytorchstreamwriter failed")
_LITTLE = 1 << 16  # bytes; what is left where a larger write did not fit
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs")
_MEMORY = "/dev/shm"  # noqa: S108 -- where data loaders hand tensors over; small in containers


def is_full(said: str) -> bool:
    """Whether an error's message, or a traceback, says that a file system or a quota is full."""
    return any(words in said.lower() for words in _SAYINGS)


def full_file_systems(
    places: Iterable[str | os.PathLike[str]], others: Iterable[str | os.PathLike[str]] = ()
) -> str:
    """A sentence about the file systems of these places: those that are full now, and those of `others` that
    are; if none is, all of these places.

    Args:
        places: files or directories; of one that is not there the nearest directory that is.
        others: likewise.
    """
    here = list(dict.fromkeys(map(_mount, places)))
    rooms = {mount: _room(mount) for mount in dict.fromkeys([*here, *map(_mount, others)])}
    full = [said for said, is_full in rooms.values() if is_full]
    if full:
        return f"Full: {'; '.join(full)}. Make room there, then try again"
    return f"None is full now: {'; '.join(rooms[mount][0] for mount in here)}"


def told_where(error: BaseException) -> str:
    """The same of a write that failed: of the file that the error names, else wherever it may have been."""
    named = getattr(error, "filename", None)
    if isinstance(named, str):
        places, others = [named], []
    else:
        places, others = [os.curdir, os.environ.get("TMPDIR") or "/tmp", _MEMORY], _mounted()  # noqa: S108
    try:
        return full_file_systems(places, others)
    except OSError as unknown:  # the working directory is gone
        return f"Which file system cannot be told: {unknown.strerror}"


def _mounted() -> list[str]:
    """Where disks and memory are mounted to be written to; not what lies on a network, which may hang."""
    table = Path("/proc/self/mounts")
    lines = table.read_text().splitlines() if table.exists() else []
    mounts = [(place, kind, options.split(",")) for _, place, kind, options, *_ in map(str.split, lines)]
    return [place for place, kind, options in mounts if kind in _LOCAL and "rw" in options]


def _mount(place: str | os.PathLike[str]) -> str:
    found = Path(os.path.abspath(place))  # noqa: PTH100 -- keeps symbolic links until one is followed
    while not os.path.exists(found):  # noqa: PTH110 -- false, too, where nobody may look
        found = found.parent
    found = found.resolve()
    while not os.path.ismount(found):
        found = found.parent
    return str(found)


def _room(mount: str) -> tuple[str, bool]:
    found = os.statvfs(mount)
    free = found.f_bavail * found.f_frsize
    if found.f_files and not found.f_favail:
        return f"the file system at {mount} holds {found.f_files:,} files, and has room for no other", True
    of = _size(found.f_blocks * found.f_frsize)
    return f"the file system at {mount} holds {of}, {_size(free)} are free", free < _LITTLE


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
