"""Results of one code do not mix with another's, unless that is allowed: then each of them says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import CodeDiffersError
from hpo.fingerprint import differences, other_hpo
from storage.database.engine import Transaction
from storage.database.records import StudyRow, TicketState
from storage.queue import optuna_rows, studies

MARK = "code_mismatch"  # user attribute of trials that ran on other code


@dataclass(eq=False)
class CodeGuard:
    """Compares the code of one runner with what the study's first completed trial ran on."""

    study: StudyRow
    here: Mapping[str, Any]
    allow: bool
    marks: list[str] = field(default_factory=list)  # on trials: differences that are allowed, and another hpo
    _differing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pinned = self.study.code

    def compare(self, connection: Transaction) -> None:
        """Refuse to add results of other code to the study, once it has a first result to differ from.

        Raises:
            CodeDiffersError: with the list of differences.
        """
        if self._pinned is None:
            self._learn(studies.code_of(connection, self.study.id))
        else:
            self._learn(self._pinned)
        if self._differing and not self.allow:
            raise self._error(self._differing)

    def mark(self, connection: Transaction, trial_id: int) -> None:
        """Say on the trial that its code is not the study's; a repeat (below 0) has nothing to say it on."""
        if self.marks and trial_id > 0:
            optuna_rows.set_attribute(connection, "user", trial_id, MARK, json.dumps(self.marks))

    def agree(
        self,
        connection: Transaction,
        trial_id: int,
        state: TicketState,
        code: Mapping[str, Any] | None,
    ) -> CodeDiffersError | None:
        """Why a result of this code (None: the runner's own) may not stand beside the others.

        In the transaction that delivers it: the first complete one decides what the study's code is, however
        many arrive together. Where other code is allowed, the trial is marked.
        """
        if self._differing:  # allowed, and marked on the trial
            return None
        code = self.here if code is None else code
        first = code if state is TicketState.COMPLETE else None
        pinned = studies.pinned_code(connection, self.study.id, first)
        unlike = [] if pinned is None else differences(code, pinned)
        if not unlike:
            return None
        self._learn(pinned)
        if self.allow and self._differing:
            self.mark(connection, trial_id)
            return None
        return self._error(unlike)

    def _learn(self, pinned: Mapping[str, Any] | None) -> None:
        if pinned is not None:
            self._pinned = pinned
            self._differing = differences(self.here, pinned)
            self.marks = self._differing + other_hpo(self.here, pinned)

    def _error(self, unlike: list[str]) -> CodeDiffersError:
        return CodeDiffersError(
            f"this machine's code is not that of {self.study.name}:\n"
            + "\n".join(f"  {line}" for line in unlike)
            + "\nIf it was changed on purpose: give the study another name (--set study=NAME), begin it anew "
            "with `hpo run --restart`, which keeps these results under another name, or go on with "
            "--allow-mismatch, which marks every trial it runs. If not, bring the same code here"
        )
