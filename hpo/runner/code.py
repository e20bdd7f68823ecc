"""Results of one code do not mix with another's, unless that is allowed: then each of them says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.errors import CodeDiffersError
from hpo.fingerprint import differences, other_hpo
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow, TicketState
from storage.queue import studies


class CodeGuard:
    """Compares the code here with what the study's first completed trial ran on.

    `differing` lists the differences once they are known and allowed. Trials are marked with `marks`, where
    another version of hpo stands too.
    """

    def __init__(self, database: Database, row: StudyRow, here: Mapping[str, Any], *, allow: bool) -> None:
        self.here = here
        self.differing: list[str] = []
        self.marks: list[str] = []
        self._database = database
        self._study = row
        self._allow = allow
        self._pinned: Mapping[str, Any] | None = row.code

    def compare(self) -> None:
        """Refuse to add results of other code to the study, once it has a first result to differ from.

        Raises:
            CodeDiffersError: with the list of differences.
        """
        if self._pinned is None:
            self._pinned = self._database.read(lambda c: studies.get(c, self._study.name)).code
        if self._pinned is not None and not self.differing:
            self.differing = differences(self.here, self._pinned)
        if self.differing and not self._allow:
            raise self._error(self.differing)
        if self._pinned is not None:
            self.marks = self.differing + other_hpo(self.here, self._pinned)

    def agree(self, state: TicketState, code: Mapping[str, Any], connection: Transaction) -> None:
        """In the transaction that delivers a result of this code: it may stand beside the others.

        The first complete one decides what the study's code is, however many arrive together.

        Raises:
            CodeDiffersError
        """
        if self.differing:  # allowed, and marked on the trial
            return
        first = code if state is TicketState.COMPLETE else None
        pinned = studies.pinned_code(connection, self._study.id, first)
        unlike = [] if pinned is None else differences(code, pinned)
        if unlike:
            raise self._error(unlike)

    def _error(self, unlike: list[str]) -> CodeDiffersError:
        return CodeDiffersError(
            f"this machine's code is not that of {self._study.name}:\n"
            + "\n".join(f"  {line}" for line in unlike)
            + "\nBring the same code here, or use --allow-mismatch, which marks every trial it runs"
        )
