"""What the pages of one running dashboard share: the database, who may enter, histories in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hpo.dashboard.access import Access, Role, Session
from hpo.dashboard.hub import Hub
from hpo.dashboard.lists import list_studies
from hpo.dashboard.live import LiveStudy, outline, sample
from hpo.errors import HpoError
from hpo.report.records.parameters import importances
from hpo.studies.reading import get_study
from storage.database.engine import Database
from storage.database.errors import StorageError
from storage.database.records import StudyRow
from storage.history.records import StudyHistory
from storage.queue import tokens

MAX_STUDIES = 12  # histories kept in memory
WARMED = 3  # running studies read at the start
PAUSE = 1.0  # seconds in which the browser draws the first chart, before the whole history is read


@dataclass
class Board:
    """One dashboard's state."""

    database: Database
    access: Access
    hub: Hub
    lease: float  # seconds, to tell a silent worker
    asked: float = field(default_factory=time.monotonic)  # when the last request came
    _studies: OrderedDict[str, LiveStudy] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def granted(self, found: Session) -> Session | None:
        """As `granted`."""
        return granted(self.database, found)

    def quiet_for(self) -> float:
        """Seconds since somebody last asked for something."""
        return time.monotonic() - self.asked

    def row(self, name: str) -> StudyRow:
        """The study's row. Raises NotFoundError or DatabaseError."""
        return get_study(self.database, name)

    def live(self, name: str) -> LiveStudy:
        """The study kept in memory. Raises NotFoundError or DatabaseError."""
        with self._lock:
            found = self._studies.get(name)
            if found is not None:
                self._studies.move_to_end(name)
                return found
        row = self.row(name)
        with self._lock:
            found = self._studies.setdefault(name, LiveStudy(self.database, row))
            while len(self._studies) > MAX_STUDIES:
                self._studies.popitem(last=False)
            return found

    def outlined(self, name: str) -> StudyHistory | None:
        """The study in outline while nobody has read its history yet, which begins now; else None.

        Raises NotFoundError or DatabaseError.
        """
        live = self.live(name)
        if live.known is not None:
            return None
        found = outline(self.database, live.row)
        reading = threading.Timer(PAUSE, self.warm, args=(name,))
        reading.daemon = True
        reading.start()
        return found

    def sampled(self, row: StudyRow, best: int | None) -> StudyHistory:
        """The history in memory, else a few trials and the `best`: what tells how the values are called."""
        return self.live(row.name).known or sample(self.database, row, best)

    def warm(self, name: str) -> None:
        """Read the study into memory, because somebody will ask for its charts in a moment, and what most of
        them wait for.
        """
        with suppress(HpoError, StorageError):  # whoever asks for a chart will be told
            importances(self.history(name)[0])

    def warm_recent(self) -> None:
        """Read the newest studies that run into memory before anybody asks."""
        with suppress(HpoError, StorageError):
            running = list_studies(
                self.database, lambda _connection, name: name, state="running", size=WARMED
            )
            for name in running.studies:
                self.warm(name)

    def history(self, name: str) -> tuple[StudyHistory, int]:
        """The history as it is now, and its version in this process. Raises NotFoundError, DatabaseError."""
        return self.live(name).numbered()


def granted(database: Database, found: Session) -> Session | None:
    """A named token's session with the rights of this moment; None: it was revoked, or never was.

    Raises:
        DatabaseUnreachableError
    """
    grant = database.read(tokens.find, found.digest)
    if grant is None:
        return None
    return replace(found, role=Role(grant.may), name=grant.name, study=grant.study)
