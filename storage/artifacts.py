"""Where files of trials are kept: a directory or any other place fsspec reaches, by URL.

A file is written aside and renamed, so that a reader sees it whole or not at all; its sha256 is
recorded and checked. Names are validated: nothing can leave the store.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.errors import ArtifactError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,149}")
_CHUNK = 1 << 20


def check_name(name: str) -> str:
    """The name, if it may be used for an artifact.

    Raises:
        ArtifactError: it is empty, too long, hidden, or has a character or path part that is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise ArtifactError(
            f"{name[:60]!r} cannot be an artifact's name: use letters, digits, '.', '_', '+' and '-', "
            "not beginning with a dot, at most 150 characters"
        )
    return name


def digest(content: bytes) -> str:
    """sha256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class ArtifactStore:
    """A tree of files under one URL. Keys are relative paths of validated names."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ArtifactError(f"the artifact store {url} cannot be used: {error}") from error
        self._files: Any = filesystem
        self._root = str(root).rstrip("/")

    @property
    def local_root(self) -> Path | None:
        """The directory, when the store is one this machine can open files in."""
        return Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def put(self, key: str, content: bytes) -> str:
        """Write `content` under `key`, whole or not at all; returns its sha256.

        Raises:
            ArtifactError: the store cannot be written (disk full, no permission).
        """
        target = self._path(key)
        aside = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            self._files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with self._files.open(aside, "wb") as out:
                out.write(content)
            if self.local_root is not None:
                Path(aside).replace(target)
            else:
                self._files.mv(aside, target)
        except OSError as error:
            self._forget(aside)
            raise ArtifactError(f"cannot write {key} in {self.url}: {error.strerror or error}") from error
        return digest(content)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The content under `key`, checked against `sha256` when given.

        Raises:
            ArtifactError: it is not there, or not what was stored.
        """
        try:
            content: bytes = self._files.cat_file(self._path(key))
        except OSError as error:
            raise ArtifactError(f"{key} is not in {self.url}: {error.strerror or error}") from error
        if sha256 is not None and digest(content) != sha256:
            raise ArtifactError(f"{key} in {self.url} was damaged: its sha256 is not the recorded one")
        return content

    def names(self, key: str) -> list[str]:
        """Names of the files and directories directly under `key`, sorted; [] when there is nothing."""
        try:
            found = self._files.ls(self._path(key), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.endswith(".part"))

    def remove(self, key: str) -> None:
        """Delete a file or a tree; nothing happens when it is not there."""
        self._forget(self._path(key))

    def _path(self, key: str) -> str:
        return "/".join([self._root, *(check_name(part) for part in key.split("/"))])

    def _forget(self, path: str) -> None:
        try:
            if self._files.exists(path):
                self._files.rm(path, recursive=True)
        except OSError:
            return  # left for later; names of unfinished files end in .part and are never read
