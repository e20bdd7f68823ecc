"""A runner as its worker sees it: to which phase each message leads; what does not fit changes nothing."""

from __future__ import annotations

import time
from collections import deque
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.runner.messages import Broken, Ready, to_worker
from hpo.settings import Settings
from hpo.worker.child import Child, Phase
from hpo.worker.desk import Desk
from hpo.worker.events import Ended, Reported, Started
from hpo.worker.supervisor import Worker
from storage.database.engine import parse_url
from storage.database.records import Lease, NothingToClaim

LEASE = Lease(7, 1)
MESSAGES: dict[str, Any] = {
    "ready": Ready({"python": "3"}),
    "broken": Broken("no such module", 2),
    "started": Started("s", LEASE, 0, 1, None),
    "reported": Reported(LEASE, 3, 0.5),
    "ended": Ended(LEASE, "complete", (1.0,)),
    "no ticket": NothingToClaim(True, "the study has ended"),
}
LEADS_TO = {
    (Phase.STARTING, "ready"): Phase.IDLE,
    (Phase.ENDED, "ready"): Phase.IDLE,
    (Phase.ASKED, "started"): Phase.WORKING,
    (Phase.ASKED, "no ticket"): Phase.IDLE,
    (Phase.ASKED, "ended"): Phase.ENDED,  # a result that was kept, delivered without a run; or a failed start
    (Phase.WORKING, "reported"): Phase.WORKING,
    (Phase.WORKING, "ended"): Phase.ENDED,
    **{(phase, "broken"): Phase.LEAVING for phase in Phase},
}
WORKS = Started("s", Lease(6, 2), 5, 2, None)


def child(phase: Phase) -> Child:
    """A runner in this phase; nothing of its process is touched here."""
    made = Child(0, *[SimpleNamespace() for _ in range(3)], (1, 0.0), "mark", SimpleNamespace(), None)  # type: ignore[arg-type,call-arg]
    made.phase = phase
    if phase is Phase.WORKING:
        made.current, made.current_since, made.last_progress = WORKS, 1.0, 1.0
        made.abandoned = 2.0
    return made


def state(one: Child) -> Any:
    return one.phase, one.current, one.current_since, one.last, one.last_progress, one.abandoned


@pytest.mark.parametrize(("phase", "said"), LEADS_TO)
def test_each_message_that_fits_leads_to_its_phase(phase: Phase, said: str) -> None:
    one = child(phase)
    one.hear(MESSAGES[said])
    assert one.phase is LEADS_TO[phase, said]


@pytest.mark.parametrize(
    ("phase", "said"), [pair for pair in product(Phase, MESSAGES) if pair not in LEADS_TO]
)
def test_what_does_not_fit_changes_nothing(phase: Phase, said: str) -> None:
    one = child(phase)
    before = state(one)
    one.hear(MESSAGES[said])
    assert state(one) == before


def test_a_trial_that_starts_is_what_it_is_at_and_its_clock_begins() -> None:
    one = child(Phase.ASKED)
    one.last = Reported(WORKS.lease, 9, 9.0)  # of the trial before
    one.hear(MESSAGES["started"])
    assert one.current == MESSAGES["started"]
    assert one.last is None
    assert one.current_since == one.last_progress > 0
    assert one.busy


def test_a_report_is_progress() -> None:
    one = child(Phase.WORKING)
    one.hear(MESSAGES["reported"])
    assert one.last == MESSAGES["reported"]
    assert one.last_progress > 1.0
    assert one.current_since == 1.0, "which a trial's own limit counts from"


def test_after_its_end_a_trial_is_nothing_it_could_be_killed_for() -> None:
    one = child(Phase.WORKING)
    one.hear(MESSAGES["ended"])
    assert (one.current, one.abandoned) == (None, None)
    one.hear(MESSAGES["ready"])
    assert one.free


def test_a_runner_that_leaves_forgets_its_trial_when_that_has_ended() -> None:
    one = child(Phase.WORKING)
    one.hear(MESSAGES["broken"])
    assert one.current == WORKS, "still to be freed"
    one.hear(MESSAGES["ended"])
    assert (one.phase, one.current) == (Phase.LEAVING, None)


@pytest.mark.parametrize("phase", Phase)
def test_only_an_idle_runner_is_given_work(phase: Phase) -> None:
    one = child(phase)
    assert one.free == (phase is Phase.IDLE)
    assert one.busy == (phase in (Phase.ASKED, Phase.WORKING))


def test_while_its_worker_stood_still_no_time_out_of_a_trial_runs(tmp_path: Path) -> None:
    """As its runner does in a container that is paused, or a job that SLURM suspends."""
    one, signals = child(Phase.WORKING), SimpleNamespace(clear=lambda: None)
    one.assignment = SimpleNamespace(spec=SimpleNamespace(trial_timeout=50.0, report_timeout=50.0))  # type: ignore[assignment]
    one.current = SimpleNamespace(worked=0.0)  # type: ignore[assignment]
    worker = Worker(SimpleNamespace(url=parse_url("sqlite:///hpo.db")), Settings(), None, ".", [])  # type: ignore[arg-type]
    worker._broker = SimpleNamespace(heard=lambda: ())  # type: ignore[assignment]
    worker._children = {0: one}
    one.desk = SimpleNamespace(mailbox=SimpleNamespace(flush=lambda: None, receive=list, is_full=False))  # type: ignore[assignment]
    one.process = SimpleNamespace(poll=lambda: None)  # type: ignore[assignment]
    one.current_since = one.last_progress = worker._look_again = time.monotonic() - 100
    assert one.overdue is not None
    worker._wait(signals)  # type: ignore[arg-type]
    assert one.overdue is None


def test_a_runner_that_is_ready_after_its_trials_end_is_heard_after_that_end(tmp_path: Path) -> None:
    """Both come at once from two threads; the other way about, it would wait for ever."""
    worker = Worker(
        SimpleNamespace(url=parse_url(f"sqlite:///{tmp_path / 'hpo.db'}")), Settings(), None, ".", []
    )  # type: ignore[arg-type]
    one = child(Phase.WORKING)
    events: deque[Any] = deque()
    broker = SimpleNamespace(heard=lambda: iter([events.popleft() for _ in range(len(events))]))

    def receive() -> list[bytes]:
        """The broker says the end, then answers the runner, and that is ready, while others are heard."""
        events.append((one.desk, MESSAGES["ended"]))
        return [to_worker(Ready())]

    one.desk = SimpleNamespace(runner=0, slot=0, mailbox=SimpleNamespace(receive=receive), held=None)  # type: ignore[assignment]
    worker._broker, worker._children = broker, {0: one}  # type: ignore[assignment]
    worker._hear(one)
    assert one.phase is Phase.IDLE


def test_lanes_that_a_runner_never_begins_are_none() -> None:
    """One that takes its trials one by one after all is looked at as one."""
    unseated: list[Desk] = []
    broker: Any = SimpleNamespace(unseat=unseated.append)
    one = child(Phase.STARTING)
    one.desk = Desk(0, SimpleNamespace(), SimpleNamespace(), "cpu")  # type: ignore[arg-type]
    one.split(4)
    assert one.understand(to_worker(Ready(lanes=2)), broker, allow_mismatch=False) == (one, Ready(lanes=2))
    assert [lane.desk.slot for lane in one.lanes] == [0, 1]
    assert [desk.slot for desk in unseated] == [2, 3]
    one.phase = Phase.WORKING
    one.understand(to_worker(Ready(lanes=1)), broker, allow_mismatch=False)
    assert (one.takes, len(one.lanes)) == (1, 2), "those that have begun go on to their end"
