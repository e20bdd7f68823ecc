"""What the pages of one running dashboard share: the database, who may enter, histories in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from hpo.dashboard.access import Access
from hpo.dashboard.hub import Hub
from hpo.search.history import StudyHistory
from hpo.studies.live import LiveStudy
from hpo.studies.reading import get_study
from storage.engine import Database
from storage.records import StudyRow

MAX_STUDIES = 12  # histories kept in memory


@dataclass
class Board:
    """One dashboard's state."""

    database: Database
    access: Access
    hub: Hub
    lease: float  # seconds, to tell a silent worker
    _studies: OrderedDict[str, LiveStudy] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

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

    def history(self, name: str) -> tuple[StudyHistory, int]:
        """The history as it is now, and its version in this process. Raises NotFoundError, DatabaseError."""
        live = self.live(name)
        return live.refresh(), live.version
