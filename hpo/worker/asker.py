"""The broker's asker: has samplers choose, in a thread of its own, so that no report waits for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial

from hpo.errors import AdviceError, ExitCode
from hpo.runner.messages import Broken, Suggest
from hpo.worker import writes
from hpo.worker.desk import Desk
from hpo.worker.study import Held
from hpo.worker.writes import Pending, Then
from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError
from storage.queue.optuna_rows import Owner

log = logging.getLogger(__name__)


class Asker:
    """Asks what takes long, one thing after another.

    Args:
        write: hands what was found to whoever writes it.
        say: tells the worker's loop of a runner that cannot go on.
    """

    def __init__(self, write: Callable[[Pending], None], say: Callable[[Desk, Broken], None]) -> None:
        self._write = write
        self._say = say
        self._questions: queue.SimpleQueue[tuple[Pending, Callable[[Pending], None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="asker", daemon=True)
        self._thread.start()

    def choose(self, desk: Desk, held: Held) -> None:
        """Have the point of a new trial chosen."""
        self._questions.put((Pending(desk, held), self._choose))

    def go_on(self, pending: Pending) -> None:
        """Have the parameters of a stored trial completed."""
        self._questions.put((pending, self._go_on))

    def suggest(self, pending: Pending) -> None:
        """Have a parameter chosen that the study file does not declare."""
        self._questions.put((pending, self._suggest))

    def prune(self, pending: Pending) -> None:
        """Have the study's own pruner say whether a trial goes on."""
        self._questions.put((pending, self._prune))

    def read(self, pending: Pending) -> None:
        """Have something read for a runner."""
        self._questions.put((pending, lambda asked: asked.answer_with(asked.read())))

    def close(self) -> None:
        """End with the question that is being asked."""
        self._questions.put(None)
        self._thread.join(1.0)

    def note(self, desk: Desk, held: Held, of: Owner, key: str, value_json: str) -> None:
        """A sampler or pruner notes something: known at once, written with the next commit."""
        if held.trial is not None:
            desk.study.has_attribute(held.trial, of, key, value_json)
            self._write(writes.of_attribute(desk, held, held.trial, of, key, value_json))

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            pending, ask = question
            if not pending.held.is_over and not pending.desk.is_left:
                self._ask(pending, ask)

    def _ask(self, pending: Pending, ask: Callable[[Pending], None]) -> None:
        """An error of a sampler's reaches who asked it, or the worker; it never ends the thread."""
        try:
            ask(pending)
        except DatabaseUnreachableError as error:
            log.warning("told to leave while the database is away: %s", error)
        except AdviceError as error:  # nobody's fault here: the trial is given back, the worker leaves
            if pending.is_asked:
                pending.answer_with(DatabaseFaultError(str(error)))
            else:
                self._say(pending.desk, Broken(str(error), ExitCode.FAILED))
        except Exception as error:
            if pending.is_asked and not isinstance(error, DatabaseFaultError):
                pending.answer_with(error)
                return
            log.exception("the sampler could not choose a point")
            self._say(pending.desk, Broken(f"{type(error).__name__}: {error}", ExitCode.FAILED))

    def _choose(self, pending: Pending) -> None:
        """Have the sampler choose the point of a new trial."""
        desk, held = pending.desk, pending.held
        params, saw = desk.study.suggested(held.claim, None, partial(self.note, desk, held))
        self._write(writes.of_choice(desk, held, params, saw))

    def _go_on(self, pending: Pending) -> None:
        """Complete the parameters of a trial that is stored, and have it run."""
        desk, held, study = pending.desk, pending.held, pending.desk.study
        trial = held.trial
        assert trial is not None
        found = study.read(trial)
        params, _ = study.suggested(held.claim, found, partial(self.note, desk, held))
        missing = {name: value for name, value in params.items() if name not in found.params}
        self._write(
            Pending(
                desk,
                held,
                writes.of_further(desk, held, trial, missing),
                Then.RUN,
                pending.message,
                answer=study.completed(held.claim, found, missing),
            )
        )

    def _prune(self, pending: Pending) -> None:
        desk, held = pending.desk, pending.held
        assert held.trial is not None
        note = partial(self.note, desk, held)
        pending.answer_with(desk.study.advised_to_prune(held, held.trial, note))

    def _suggest(self, pending: Pending) -> None:
        """Have the sampler choose a parameter that the study file does not declare."""
        desk, held, message = pending.desk, pending.held, pending.message
        assert held.trial is not None
        assert isinstance(message, Suggest)
        note = partial(self.note, desk, held)
        value = desk.study.suggested_one(held, held.trial, message.name, message.distribution, note)
        self._write(
            writes.of_parameter(desk, held, held.trial, message.name, value, message.distribution, message)
        )
