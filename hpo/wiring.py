"""The one place that turns settings into live objects; everything else gets them as arguments."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hpo.errors import DatabaseError, HpoError, NotFoundError, UserError
from hpo.settings import Settings
from storage.database.engine import Database
from storage.database.errors import (
    ArtifactError,
    BadArtifactUrlError,
    BadStorageUrlError,
    DatabaseUnreachableError,
    NoTablesError,
    SchemaError,
    StorageError,
    StudyExistsError,
    UnknownStudyError,
)
from storage.database.migrate import open_database
from storage.files.artifacts import IMPATIENT_SECONDS, ArtifactStore

_MEANING: dict[type[StorageError], type[HpoError]] = {
    BadStorageUrlError: UserError,
    DatabaseUnreachableError: DatabaseError,
    SchemaError: DatabaseError,
    NoTablesError: NotFoundError,
    StudyExistsError: UserError,
    UnknownStudyError: NotFoundError,
    BadArtifactUrlError: UserError,
    ArtifactError: HpoError,
}


@contextmanager
def telling() -> Iterator[None]:
    """Storage errors that pass become errors of the service, with their exit codes; the cause is kept."""
    try:
        yield
    except StorageError as error:
        meaning = next((_MEANING[kind] for kind in type(error).__mro__ if kind in _MEANING), HpoError)
        raise meaning(str(error)) from error


def open_storage(settings: Settings, *, create: bool = True) -> Database:
    """The shared database of these settings.

    Raises:
        UserError, DatabaseError: a sentence; never a password.
        NotFoundError: there is no database yet and `create` is False.
    """
    with telling():
        return open_database(settings.storage, create=create)


def open_artifacts(
    url: str, patience: float = IMPATIENT_SECONDS, give_up: threading.Event | None = None
) -> ArtifactStore:
    """The artifact store at `url`, which is asked again for `patience` seconds while it is away.

    Raises:
        UserError: the URL cannot be used, or its driver is not installed.
    """
    with telling():
        return ArtifactStore(url, patience, give_up)
