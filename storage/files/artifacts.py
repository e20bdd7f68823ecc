"""Where files of trials are kept: a directory, a bucket or any other place fsspec reaches, by URL.

A reader sees a file whole or not at all: a directory gets it written aside and renamed, an object
store in one upload. Its sha256 is recorded and checked. Names are validated and no link is followed:
nothing can leave the store. A store that is away for a moment is asked again.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from storage.database.errors import ArtifactError, ArtifactsAwayError, BadArtifactUrlError
from storage.files.local_files import LocalFiles
from storage.files.room import full_file_systems, is_full

log = logging.getLogger(__name__)
T = TypeVar("T")

IMPATIENT_SECONDS = 5.0  # how long a command waits for a store that is away
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,149}")
_PUBLISHED_AT_ONCE = {"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"}  # an upload appears whole
_BUSY = {errno.EIO, errno.EBUSY, errno.EAGAIN, getattr(errno, "EREMOTEIO", errno.EIO), errno.ESTALE}
_NETWORK = {  # by name: a driver's libraries are not imported for it
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "urllib3.exceptions.HTTPError",
}
_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY|_KEY$")
_USER_INFO = re.compile(r"//[^/@\s\"']+@")
_DRIVER = {"s3": "hpo[s3]", "s3a": "hpo[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


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


def _checked(key: str) -> None:
    for part in key.split("/"):
        check_name(part)


def digest(content: bytes) -> str:
    """sha256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def check_url(url: str) -> str:
    """The URL, if it may be stored with a study and shown: credentials stay in the environment.

    Raises:
        BadArtifactUrlError: it carries a user, a password or a query; neither is repeated.
    """
    try:
        parts = [urlsplit(part) for part in url.split("::")]  # simplecache::ftp://user:password@host/x
    except ValueError as error:
        raise BadArtifactUrlError("the artifact store's URL cannot be read as one") from error
    if any("@" in part.netloc or (part.query and part.scheme not in ("", "file")) for part in parts):
        raise BadArtifactUrlError(
            f"the artifact store's URL ({parts[-1].scheme}://...) carries credentials or options. It is "
            "stored and shown, so write the place alone and put the rest into the environment: "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL for s3://, "
            "FSSPEC_<SCHEME>_<OPTION> for others"
        )
    return url


class ArtifactStore:
    """A tree of files under one URL. Keys are relative paths of validated names.

    Args:
        url: `file:///shared/hpo`, `s3://bucket/prefix`, `gs://bucket/prefix`, ...
        patience: seconds for which a store that is away is asked again.
        give_up: ends the patience early.

    Raises:
        BadArtifactUrlError: the URL names no store, or its driver is not installed.
    """

    def __init__(
        self, url: str, patience: float = IMPATIENT_SECONDS, give_up: threading.Event | None = None
    ) -> None:
        self.url = check_url(url)
        self.patience = patience
        self._give_up = give_up or threading.Event()
        self._scheme = urlsplit(url).scheme or "file"
        self._files: LocalFiles | _RemoteFiles
        if url.startswith("file:///") and "::" not in url:
            self._files = LocalFiles(Path(url.removeprefix("file://")))
            return
        import fsspec  # costs what a directory of this machine need not pay
        from fsspec.implementations.local import LocalFileSystem

        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            driver = _DRIVER.get(self._scheme)
            how = f"pip install '{driver}'" if driver else sentence(error)
            raise BadArtifactUrlError(
                f"the artifact store {url} needs a driver that is not installed here: {how}"
            ) from error
        except Exception as error:  # drivers refuse nonsense in many ways
            raise BadArtifactUrlError(
                f"the artifact store {url} cannot be used: {sentence(error)}"
            ) from error
        if isinstance(filesystem, LocalFileSystem):
            self._files = LocalFiles(Path(root))
        else:
            self._files = _RemoteFiles(filesystem, str(root).rstrip("/"), self._scheme in _PUBLISHED_AT_ONCE)

    @property
    def local_root(self) -> Path | None:
        """The directory, when the store is one this machine can open files in."""
        return self._files.root if isinstance(self._files, LocalFiles) else None

    def with_patience(self, seconds: float) -> ArtifactStore:
        """The same store, for who can wait only so long."""
        other = copy.copy(self)
        other.patience = seconds
        return other

    def put(self, key: str, content: bytes, patience: float | None = None) -> str:
        """Write `content` under `key`, whole or not at all; returns its sha256.

        Raises:
            ArtifactsAwayError: the store did not answer for `patience` seconds.
            ArtifactError: the store cannot be written (disk full, no permission).
        """
        _checked(key)
        self._ask(lambda: self._files.write(key, content), f"cannot write {key} in {self.url}", patience)
        return digest(content)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The content under `key`, checked against `sha256` when given.

        Raises:
            ArtifactsAwayError: the store does not answer.
            ArtifactError: it is not there, or not what was stored.
        """
        _checked(key)

        def read() -> bytes:
            try:
                return self._files.read(key)
            except FileNotFoundError:
                raise ArtifactError(f"{key} is not in {self.url}") from None

        content = self._ask(read, f"cannot read {key} from {self.url}")
        if sha256 is not None and digest(content) != sha256:
            raise ArtifactError(f"{key} in {self.url} was damaged: its sha256 is not the recorded one")
        return content

    def part(self, key: str, start: int, length: int) -> tuple[bytes, int, int]:
        """At most `length` bytes from `start` on (below 0: counted from the end), where they begin, and the
        size of the whole.

        Raises:
            ArtifactsAwayError: the store does not answer.
            ArtifactError: it is not there.
        """
        _checked(key)

        def read() -> tuple[bytes, int, int]:
            try:
                return self._files.part(key, start, length)
            except FileNotFoundError:
                raise ArtifactError(f"{key} is not in {self.url}") from None

        return self._ask(read, f"cannot read {key} from {self.url}")

    def names(self, key: str) -> list[str]:
        """Names of the files and directories directly under `key`, sorted; [] when there is nothing.

        Raises:
            ArtifactsAwayError, ArtifactError: the store cannot tell.
        """
        _checked(key)
        found = self._ask(lambda: self._files.names(key), f"cannot list {key} in {self.url}")
        return sorted(name for name in found if not name.endswith(".part"))

    def all_files(self, key: str) -> list[str]:
        """Keys of every finished file below `key`, sorted; [] when there is nothing.

        Raises:
            ArtifactsAwayError, ArtifactError: the store cannot tell.
        """
        _checked(key)
        found = self._ask(lambda: self._files.all_files(key), f"cannot list {key} in {self.url}")
        return sorted(key for key in found if not key.endswith(".part"))

    def remove(self, key: str) -> None:
        """Delete a file or a tree; nothing happens when it is not there.

        Raises:
            ArtifactsAwayError, ArtifactError: it is still there.
        """
        _checked(key)
        self._ask(lambda: self._files.remove(key), f"cannot remove {key} from {self.url}")

    def open_to_append(self, key: str) -> int | None:
        """A file descriptor that reads, and writes at the end of a file; None where only whole files can
        be written.

        Raises:
            ArtifactError: it cannot be opened.
        """
        _checked(key)
        files = self._files
        if not isinstance(files, LocalFiles):
            return None
        return self._ask(lambda: files.open_to_append(key), f"cannot write {key} in {self.url}", 0.0)

    def _ask(self, call: Callable[[], T], failing: str, patience: float | None = None) -> T:
        """`call()`, again with growing pauses while the store is away; so `call` must be idempotent."""
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_delay(self.patience if patience is None else patience)
            | stop_when_event_set(self._give_up),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            sleep=sleep_using_event(self._give_up),
            reraise=True,
            before_sleep=lambda state: log.warning(
                "the artifact store %s is away (try %d): %s",
                self.url,
                state.attempt_number,
                sentence(state.outcome.exception() if state.outcome else None),
            ),
        )
        try:
            return retrying(call)
        except ArtifactError:
            raise
        except Exception as error:  # drivers raise what their libraries raise
            if isinstance(error, OSError) and not may_pass(error):
                raise ArtifactError(f"{failing}: {self._why(error)}") from error
            kind = ArtifactsAwayError if may_pass(error) else ArtifactError
            raise kind(f"{failing}: {sentence(error)}") from error

    def _why(self, error: OSError) -> str:
        why, root = error.strerror or sentence(error), self.local_root
        return f"{why}. {full_file_systems([root])}" if root is not None and is_full(why) else why


class _RemoteFiles:
    """Files in a bucket, or wherever a driver of fsspec reaches; the same verbs as `LocalFiles`."""

    def __init__(self, driver: Any, root: str, published_at_once: bool) -> None:
        self._driver = driver
        self._root = root
        self._published_at_once = published_at_once

    def read(self, key: str) -> bytes:
        return bytes(self._driver.cat_file(self._path(key)))

    def part(self, key: str, start: int, length: int) -> tuple[bytes, int, int]:
        self._driver.invalidate_cache()  # a log grows
        size = int(self._driver.size(self._path(key)))
        begin = min(size, start if start >= 0 else max(0, size + start))
        end = min(size, begin + length)  # drivers refuse ranges beyond the end, and empty ones
        found = self._driver.cat_file(self._path(key), start=begin, end=end) if end > begin else b""
        return bytes(found), begin, size

    def write(self, key: str, content: bytes) -> None:
        target = self._path(key)
        if self._published_at_once:
            self._driver.pipe_file(target, content)
            return
        aside = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            self._driver.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with self._driver.open(aside, "wb") as out:
                out.write(content)
            self._driver.mv(aside, target)
        except BaseException:
            with contextlib.suppress(Exception):  # names of unfinished files end in .part and are never read
                self._driver.rm(aside)
            raise

    def names(self, key: str) -> list[str]:
        found = self._listed(self._driver.ls, key)
        return [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found]

    def all_files(self, key: str) -> list[str]:
        found = self._listed(self._driver.find, key)
        return [str(entry).removeprefix(self._root).lstrip("/") for entry in found]

    def remove(self, key: str) -> None:
        self._driver.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            if self._driver.exists(self._path(key)):
                self._driver.rm(self._path(key), recursive=True)

    def _listed(self, how: Callable[..., Any], key: str) -> list[Any]:
        self._driver.invalidate_cache()  # drivers remember listings; others write here too
        try:
            return list(how(self._path(key), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def may_pass(error: BaseException | None) -> bool:
    """Whether the store is away for now: refused, cut off, slow, busy. A full disk is not."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _BUSY:
        return True
    return any(f"{kind.__module__}.{kind.__qualname__}" in _NETWORK for kind in type(error).__mro__)


def sentence(error: BaseException | None) -> str:
    """First line of an error's message, without what the environment keeps secret."""
    lines = str(error).strip().splitlines()
    text = lines[0][:500] if lines else type(error).__name__
    text = _USER_INFO.sub("//***@", text)
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name.upper()):
            text = text.replace(value, "***")
    return text
