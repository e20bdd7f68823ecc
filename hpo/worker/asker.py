"""The broker's asker: has samplers choose, in a thread of its own, so that no report waits for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from optuna.trial import FrozenTrial

from hpo.errors import AdviceError, ExitCode
from hpo.runner.messages import Broken, Suggest
from hpo.worker import writes
from hpo.worker.desk import Desk, Held
from hpo.worker.writes import Pending, Then
from storage.database.errors import DatabaseFaultError, DatabaseUnreachableError
from storage.queue.optuna_rows import Owner

log = logging.getLogger(__name__)


class Asker:
    """Asks what takes long, one thing after another: hands what was found to who writes it, and tells the
    worker's loop of a runner that cannot go on.
    """

    def __init__(self, write: Callable[[Pending], None], say: Callable[[Desk, Broken], None]) -> None:
        self._write = write
        self._say = say
        self._questions: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="asker", daemon=True)
        self._thread.start()

    def ask(self, pending: Pending) -> None:
        """Have found out what follows (`then`); where it says nothing, the point of a new trial is chosen."""
        self._questions.put(pending)

    def close(self) -> None:
        """End with the question that is being asked."""
        self._questions.put(None)
        self._thread.join(1.0)

    def note(self, held: Held, of: Owner, key: str, value_json: str) -> None:
        """A sampler or pruner notes something: known at once, written with the next commit."""
        if held.trial is not None:
            held.desk.study.has_attribute(held.trial, of, key, value_json)
            self._write(writes.of_attribute(held, of, key, value_json))

    def _run(self) -> None:
        is_over = False
        while not is_over:
            asked = [self._questions.get()]
            while not self._questions.empty():
                asked.append(self._questions.get())
            is_over = None in asked
            self._answer([one for one in asked if one and not one.held.is_over and not one.desk.is_left])

    def _answer(self, asked: Sequence[Pending]) -> None:
        """What these ask, one thing after another; trials of a study that go on are read together."""
        stored: dict[int, FrozenTrial] = {}
        for study in {one.desk.study for one in asked if one.then is Then.GO_ON}:
            its = [one for one in asked if one.then is Then.GO_ON and one.desk.study is study]
            with self._telling(its):
                stored |= study.read([one.held.stored for one in its])
        for pending in asked:
            if pending.then is not Then.GO_ON:
                with self._telling([pending]):
                    self._ask(pending)
            elif pending.held.stored.id in stored:
                with self._telling([pending]):
                    self._go_on(pending, stored[pending.held.stored.id])

    def _ask(self, pending: Pending) -> None:
        match pending.then:
            case None:
                self._choose(pending.held)
            case Then.SUGGEST:
                self._suggest(pending)
            case Then.PRUNE:
                note = partial(self.note, pending.held)
                pending.answer_with(pending.desk.study.advised_to_prune(pending.held, note))
            case _:
                pending.answer_with(pending.read())

    @contextmanager
    def _telling(self, asking: Sequence[Pending]) -> Iterator[None]:
        """An error of a sampler's reaches who asked it, or the worker; it never ends the thread."""
        try:
            yield
        except DatabaseUnreachableError as error:
            log.warning("told to leave while the database is away: %s", error)
        except Exception as error:
            for pending in asking:
                self._tell(pending, error)

    def _tell(self, pending: Pending, error: Exception) -> None:
        is_advice = isinstance(error, AdviceError)  # nobody's fault: given back, and the worker leaves
        if pending.is_asked and not isinstance(error, DatabaseFaultError):
            pending.answer_with(DatabaseFaultError(str(error)) if is_advice else error)
            return
        if not is_advice:
            log.error("the sampler could not choose a point", exc_info=error)
        why = str(error) if is_advice else f"{type(error).__name__}: {error}"
        self._say(pending.desk, Broken(why, ExitCode.FAILED))

    def _choose(self, held: Held) -> None:
        """Have the sampler choose the point of a new trial."""
        params, saw = held.desk.study.suggested(held.claim, None, partial(self.note, held))
        self._write(writes.of_choice(held, params, saw))

    def _go_on(self, pending: Pending, found: FrozenTrial) -> None:
        """Complete the parameters of a trial as it is stored, and have it run."""
        held, study = pending.held, pending.desk.study
        params, _ = study.suggested(held.claim, found, partial(self.note, held))
        missing = {name: value for name, value in params.items() if name not in found.params}
        entries = writes.of_further(held, missing)
        answer = study.completed(held.claim, found, missing)
        self._write(Pending(held, entries, Then.RUN, pending.message, answer=answer))

    def _suggest(self, pending: Pending) -> None:
        """Have the sampler choose a parameter that the study file does not declare."""
        held, message = pending.held, pending.message
        assert isinstance(message, Suggest)
        name, of = message.name, message.distribution
        value = pending.desk.study.suggested_one(held, name, of, partial(self.note, held))
        self._write(writes.of_parameter(held, name, value, of, message))
