"""Errors of the shared storage. Driver errors are translated at this package's edge, cause kept."""

from __future__ import annotations


class StorageError(Exception):
    """Base of every error this package raises on purpose. Messages never carry a password."""


class BadStorageUrlError(StorageError):
    """The storage URL cannot be parsed, names an unknown database, or lacks its driver."""


class DatabaseUnreachableError(StorageError):
    """The database does not answer (refused, timed out, stopped, cut off, locked too long)."""


class DatabaseFaultError(StorageError):
    """The database answers with an error that does not pass: damaged, a table or a right is missing."""


class SchemaError(StorageError):
    """The database was made by a newer version of hpo or of Optuna, or is not such a database."""


class NoTablesError(StorageError):
    """The database has no studies yet: nothing has created our tables."""


class LimitError(StorageError):
    """As much as may be was asked for: of points from outside, or of what a token may give studies."""


class UnknownStudyError(StorageError):
    """No study of that name in this database."""


class DamagedStudyError(StorageError):
    """What is stored of a study cannot be read."""


class StudyExistsError(StorageError):
    """A study of that name exists already."""


class LeaseLostError(StorageError):
    """The attempt that wanted to write no longer holds its ticket; nothing was written."""


class ArtifactError(StorageError):
    """An artifact name is not allowed, or a file does not have the content it was stored with."""


class ArtifactsAwayError(ArtifactError):
    """The artifact store does not answer for now: refused, cut off, slow or busy."""


class BadArtifactUrlError(ArtifactError):
    """The artifact store's URL names no store, carries credentials, or its driver is not installed."""
