"""Removes the files that nobody needs any more, in a thread of its own: a store may be slow."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from hpo.errors import HpoError
from hpo.spec import Keep
from hpo.studies import confirming
from hpo.worker.study import ServedStudy
from storage.database.engine import Database
from storage.database.errors import StorageError, UnknownStudyError
from storage.database.records import RESULTS, AttemptState, Claim, Lease
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
        self._pruning: set[int] = set()  # studies whose weights will be looked at soon
        self._swept: set[int] = set()
        self._is_hurried = False
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)
        self._thread.start()

    def let_go(self, study: ServedStudy, trial: Trial, state: AttemptState, claim: Claim) -> None:
        """An attempt has ended: remove what was kept for its trial to go on, and weights that are beaten."""
        stays = state is AttemptState.PRUNED and study.keeps_checkpoint(claim.number)
        brings = state in RESULTS
        if brings and study.row.id not in self._pruning:  # one look serves all that end before it
            self._pruning.add(study.row.id)
            self._work.put(partial(self._prune, study))
        if not stays and (brings or state is AttemptState.FAILED):
            self._work.put(partial(self._tidy, study, trial, claim.lease, surely=brings))

    def sweep(self, study: ServedStudy) -> None:
        """A study has ended: remove what attempts that died half-way have left. Once."""
        if study.row.id not in self._swept:
            self._swept.add(study.row.id)
            self._work.put(partial(self._sweep, study))

    def _sweep(self, study: ServedStudy) -> None:
        retention.sweep(
            self._database, study.store, study.row, partial(self._best_kept, study), study.keeps_checkpoint
        )
        if study.row.repeats_of is None and study.spec.confirm is not None:
            with suppress(HpoError):  # deleted, or goes on: whoever ends it next asks
                confirming.go_on(self._database, study.row.name)

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

    def _prune(self, study: ServedStudy) -> None:
        self._pruning.discard(study.row.id)
        retention.prune(self._database, study.store, study.row, partial(self._best_kept, study))

    def _tidy(self, study: ServedStudy, trial: Trial, lease: Lease, *, surely: bool) -> None:
        """Remove checkpoints of a trial that gets no further attempt; `surely`: it has brought a result."""
        if surely or self._database.read(tickets.is_over, lease.ticket_id):
            retention.tidy(self._database, study.store, study.row, trial.id, trial.number)

    def _best_kept(self, study: ServedStudy) -> int | None:
        """How many trials keep their weights, as the study says now."""
        with suppress(UnknownStudyError):
            now = self._database.read(studies.get, study.row.name)
            return Keep.model_validate(now.spec.get("keep", {})).best
        return study.spec.keep.best
