"""Removes the files that nobody needs any more, in a thread of its own: a store may be slow."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from hpo.spec import Keep
from hpo.worker.study import ServedStudy
from storage.database.engine import Database
from storage.database.errors import StorageError, UnknownStudyError
from storage.database.records import AttemptState, Lease
from storage.files import retention
from storage.queue import studies, tickets
from storage.queue.optuna_rows import Trial

log = logging.getLogger(__name__)

FINISH_WITHIN = 30.0  # seconds that an orderly end waits for a slow store


class Housekeeper:
    """Does what it is told, one thing after another."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._swept: set[int] = set()
        self._is_hurried = False
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)
        self._thread.start()

    def let_go(self, study: ServedStudy, trial: Trial, state: AttemptState, lease: Lease) -> None:
        """An attempt has ended: remove what was kept for its trial to go on, and weights that are beaten."""
        self._work.put(partial(self._let_go, study, trial, state, lease))

    def sweep(self, study: ServedStudy) -> None:
        """A study has ended: remove what attempts that died half-way have left. Once."""
        if study.row.id not in self._swept:
            self._swept.add(study.row.id)
            self._work.put(
                lambda: retention.sweep(
                    self._database, study.store, study.row, partial(self._best_kept, study)
                )
            )

    def close(self, *, hurry: bool) -> None:
        """Finish what is there and end; `hurry`: what is not begun is left for others."""
        self._is_hurried = hurry
        self._work.put(None)
        self._thread.join(1.0 if hurry else FINISH_WITHIN)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self._is_hurried:
                continue
            try:
                work()
            except StorageError as error:
                log.warning("files are left for later: %s", error)
            except Exception:  # or the thread would end
                log.exception("files are left for later")

    def _let_go(self, study: ServedStudy, trial: Trial, state: AttemptState, lease: Lease) -> None:
        database, row = self._database, study.row
        if state in (AttemptState.COMPLETE, AttemptState.PRUNED, AttemptState.DIVERGED):
            retention.prune(database, study.store, row, partial(self._best_kept, study))
        elif state is not AttemptState.FAILED or not database.read(
            lambda connection: tickets.is_over(connection, lease.ticket_id)
        ):
            return
        retention.tidy(database, study.store, row, trial.id, trial.number)

    def _best_kept(self, study: ServedStudy) -> int | None:
        """How many trials keep their weights, as the study says now."""
        with suppress(UnknownStudyError):
            now = self._database.read(lambda connection: studies.get(connection, study.row.name))
            return Keep.model_validate(now.spec.get("keep", {})).best
        return study.spec.keep.best
