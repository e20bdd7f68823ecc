"""Files below one directory: no link on the way is followed, and only regular files are opened.

Whatever a trial runs can put anything into its own folder: a link to the dashboard's token, a folder that
leads elsewhere, a pipe that nobody writes to. So every path is walked from the root, each part opened
relative to the one before: nothing can be exchanged between the check and the use. The root itself, and
what leads to it, may be links: they are the owner's.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # a pipe or a terminal must not hold whoever opens it

_DEEPEST = 16  # levels; nothing of ours lies deeper, and a trial could nest folders without end


class LocalFiles:
    """The files below `root`; keys are relative paths with `/` between the parts.

    Every method raises OSError, with a reason that can be shown.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes:
        """The whole content of a file."""
        *folders, name = _parts(key)
        with self._folder(folders) as folder, os.fdopen(_open(folder, name, os.O_RDONLY), "rb") as file:
            return file.read()

    def part(self, key: str, start: int, length: int) -> tuple[bytes, int, int]:
        """As `ArtifactStore.part`."""
        *folders, name = _parts(key)
        with self._folder(folders) as folder, os.fdopen(_open(folder, name, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = min(size, start if start >= 0 else max(0, size + start))
            file.seek(begin)
            return file.read(length), begin, size

    def write(self, key: str, content: bytes) -> None:
        """Write aside and rename, so that a reader sees the file whole or not at all."""
        *folders, name = _parts(key)
        aside = f"{name}.{uuid.uuid4().hex[:8]}.part"  # names of unfinished files are never read
        with self._folder(folders, make=True) as folder:
            try:
                with os.fdopen(_open(folder, aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                    file.write(content)
                os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(aside, dir_fd=folder)
                raise

    def open_to_append(self, key: str) -> int:
        """A file descriptor that reads, and writes at the file's end; a file that is not there is made."""
        *folders, name = _parts(key)
        with self._folder(folders, make=True) as folder:
            return _open(folder, name, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def names(self, key: str) -> list[str]:
        """Names of the regular files and the folders directly under `key`; [] when it is no folder."""
        files, folders = self._entries(key)
        return files + folders

    def all_files(self, key: str) -> list[str]:
        """Keys of the regular files below `key`; folders that cannot be looked into are left out."""
        found, left = [], [key]
        while left:
            here = left.pop()
            try:
                files, folders = self._entries(here)
            except OSError as error:
                if here == key or error.errno not in (errno.EACCES, errno.ELOOP):
                    raise
                continue
            found += [f"{here}/{name}" for name in files]
            if here.count("/") < _DEEPEST:
                left += [f"{here}/{name}" for name in folders]
        return found

    def remove(self, key: str) -> None:
        """Delete a file, a link or a tree; a link's target stays. Nothing happens when it is not there."""
        *folders, name = _parts(key)
        with suppress(FileNotFoundError), self._folder(folders) as folder:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)
                return
            try:
                shutil.rmtree(name, dir_fd=folder)
            except RecursionError:
                raise OSError(errno.ELOOP, f"folders in {name} are nested too deeply") from None

    def _entries(self, key: str) -> tuple[list[str], list[str]]:
        """Names of files and of folders; links and whatever else lies there are left out."""
        try:
            with self._folder(_parts(key)) as folder, os.scandir(folder) as found:
                entries = list(found)
                files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
                return files, [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return [], []

    @contextmanager
    def _folder(self, parts: list[str], *, make: bool = False) -> Iterator[int]:
        """The folder these parts lead to, as a file descriptor."""
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        here = os.open(self.root, _FOLDER)
        try:
            for part in parts:
                below = _open_folder(here, part, make=make)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)


def _parts(key: str) -> list[str]:
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise OSError(errno.EINVAL, f"{key!r} is not a path below a folder")
    return parts


def _open_folder(above: int, name: str, *, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError:
        if _is_link(above, name):
            raise _link(name) from None
        raise


def _open(folder: int, name: str, how: int) -> int:
    """A regular file of the folder, opened; its permissions are left to the umask."""
    try:
        file = os.open(name, how | _FILE, 0o666, dir_fd=folder)
    except FileExistsError:
        raise
    except OSError as error:
        if _is_link(folder, name):
            raise _link(name) from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise _not_regular(name) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _not_regular(name)
    os.set_blocking(file, True)
    return file


def _is_link(folder: int, name: str) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _link(name: str) -> OSError:
    return OSError(errno.ELOOP, f"{name} is a link, and links below the store's root are not followed")


def _not_regular(name: str) -> OSError:
    return OSError(errno.EINVAL, f"{name} is not a regular file")
