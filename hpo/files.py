"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from hpo.errors import HpoError, UserError
from storage.files.room import full_file_systems, is_full


def file_name(study: str) -> str:
    """A study's name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in study).strip(".") or "study"


def write_whole(path: Path, content: str | bytes, what: str) -> Path:
    """Write beside `path`, flush to the disk, rename over it; missing directories are made.

    A link stays and leads to the new file. What is no file of a disk (a device, a pipe, /dev/stdout) is
    written in place.

    Raises UserError where `path` is a directory, HpoError (with the old file untouched and nothing left
    behind) where the system refuses: no space, no permission, a file where a directory should be.
    """
    if os.path.isdir(path):  # noqa: PTH112 -- `Path.is_dir` raises for a name that is too long
        raise UserError(f"Cannot write the {what} to {path}: it is a directory. Give the name of a file.")
    aside: Path | None = None
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    given = path
    try:
        if _is_no_file(path):
            with path.open("wb") as place:
                place.write(data)
            return path
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
        aside = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        if is_full(reason):
            reason += f". {full_file_systems([given.parent])}"
        there = aside is not None and os.path.exists(path)  # noqa: PTH110 -- as above
        kept = " The file that was there is unchanged." if there else ""
        raise HpoError(f"Could not write the {what} to {given}: {reason}.{kept}") from error
    return given


def _is_no_file(path: Path) -> bool:
    """Whether something is there that must be written to, not replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or path.parts[:2] in (("/", "dev"), ("/", "proc"))


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current
