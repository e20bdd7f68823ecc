"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hpo.errors import HpoError, UserError


def file_name(study: str) -> str:
    """A study's name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in study).strip(".") or "study"


def write_whole(path: Path, content: str | bytes, what: str) -> Path:
    """Write beside `path`, flush to the disk, rename over it; missing directories are made.

    Raises UserError where `path` is a directory, HpoError (with the old file untouched and nothing left
    behind) where the system refuses: no space, no permission, a file where a directory should be.
    """
    if path.is_dir():
        raise UserError(f"Cannot write the {what} to {path}: it is a directory. Give the name of a file.")
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
        aside = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        kept = " The file that was there is unchanged." if path.exists() else ""
        raise HpoError(f"Could not write the {what} to {path}: {reason}.{kept}") from error
    return path


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current
