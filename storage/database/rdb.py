"""Optuna's storage on our engine. Importing this module imports Optuna."""

from __future__ import annotations

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy import orm
from sqlalchemy.engine import URL, Engine

from storage.database import engine as engines
from storage.database import faults
from storage.database.errors import SchemaError

optuna.logging.set_verbosity(optuna.logging.WARNING)


class EngineStorage(RDBStorage):
    """Optuna's storage on an engine that is open, over tables whose version is known to be right.

    Its own constructor opens a second engine and reads Optuna's revision scripts by alembic, which takes
    as long as all other imports of a runner. A test compares what the two leave behind.
    """

    def __init__(self, url: URL, engine: Engine) -> None:
        self.url = url.render_as_string(hide_password=False)
        self.engine = engine
        self.engine_kwargs = engines.engine_options(url)
        self.scoped_session = orm.scoped_session(orm.sessionmaker(bind=engine))
        self.skip_compatibility_check = True
        self.heartbeat_interval = self.grace_period = None
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self._version_manager = None  # type: ignore[assignment]  # only `upgrade` needs one


def _open(url: URL, *, create: bool) -> RDBStorage:
    return RDBStorage(
        url.render_as_string(hide_password=False),
        engine_kwargs=engines.engine_options(url, idle_seconds=60),  # it reads its scripts meanwhile
        skip_table_creation=not create,
    )


def check_tables(url: URL, *, create: bool) -> None:
    """Have Optuna say whether it can use its tables; `create` makes those that are missing.

    Raises:
        SchemaError: they are of another version.
    """
    try:
        looked = _open(url, create=create)
    except RuntimeError as error:  # Optuna's compatibility check
        raise SchemaError(
            f"Optuna's tables in {faults.redacted(url)} are of another version. {error}"
        ) from error
    looked.remove_session()
    looked.engine.dispose()


def open_theirs(url: URL) -> RDBStorage:
    """The storage of somebody else's Optuna studies, to read.

    Raises:
        SchemaError: it was made by another version of Optuna, or holds no studies.
    """
    try:
        return _open(url, create=False)
    except RuntimeError as error:  # Optuna's compatibility check
        raise SchemaError(
            f"{faults.redacted(url)} was made by another version of Optuna; make a copy and run "
            "`optuna storage upgrade --storage URL` on it"
        ) from error
    except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise SchemaError(
            f"{faults.redacted(url)} holds no Optuna studies: {faults.reason(url, error)}"
        ) from error
