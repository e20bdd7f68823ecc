"""The database that settings name, and the errors of the storage as people read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar

from hpo.errors import DatabaseError, HpoError, NotFoundError, UserError
from hpo.settings import Settings
from storage.database.engine import Database
from storage.database.errors import (
    ArtifactError,
    BadArtifactUrlError,
    BadStorageUrlError,
    DatabaseUnreachableError,
    LimitError,
    NoTablesError,
    SchemaError,
    StorageError,
    StudyExistsError,
    UnknownStudyError,
)
from storage.database.migrate import open_database

T = TypeVar("T")

_MEANING: dict[type[StorageError], type[HpoError]] = {
    BadStorageUrlError: UserError,
    DatabaseUnreachableError: DatabaseError,
    SchemaError: DatabaseError,
    NoTablesError: NotFoundError,
    LimitError: UserError,
    StudyExistsError: UserError,
    UnknownStudyError: NotFoundError,
    BadArtifactUrlError: UserError,
    ArtifactError: HpoError,
}


def told(error: StorageError) -> HpoError:
    """An error of the storage as a person reads it, with its exit code."""
    meaning = next((_MEANING[kind] for kind in type(error).__mro__ if kind in _MEANING), HpoError)
    return meaning(str(error))


@contextmanager
def telling() -> Iterator[None]:
    """Storage errors that pass become errors of the service; the cause is kept. For surfaces alone."""
    try:
        yield
    except StorageError as error:
        raise told(error) from error


def speaking(surface: type[T]) -> type[T]:
    """A class whose methods and properties raise what a person reads."""
    for name, member in vars(surface).items():
        if isinstance(member, property) and member.fget is not None:
            setattr(surface, name, property(_speaking(member.fget)))
        elif isinstance(member, FunctionType):
            setattr(surface, name, _speaking(member))
    return surface


def _speaking(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def told_call(*args: Any, **options: Any) -> Any:
        with telling():
            return call(*args, **options)

    return told_call


def open_storage(settings: Settings, *, create: bool = True) -> Database:
    """The shared database of these settings.

    Raises:
        UserError, DatabaseError: a sentence; never a password.
        NotFoundError: there is no database yet and `create` is False.
    """
    return open_database(settings.storage, create=create)
