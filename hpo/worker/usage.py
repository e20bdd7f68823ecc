"""Runners that use more than `limits` in their study file allow, with all they have started, are ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

import psutil

from hpo.spec.sections import Limits
from hpo.text import size
from hpo.worker.child import Child


def end_who_uses_too_much(runners: Iterable[Child]) -> None:
    """Each says why. A person's own process is not ours to end.

    A worker looks now and then, for a runner may seldom make itself a control group: what bursts in between
    is seen by the next look, unless the machine has ended it before.
    """
    ours = (one for one in runners if one.at_work and one.process_key is not None)
    watched = [one for one in ours if one.assignment.spec.limits.are_watched]
    below = defaultdict(list)
    for process in psutil.process_iter(["ppid"]) if watched else ():
        below[process.info["ppid"]].append(process)
    for runner in watched:
        why = too_much(runner.assignment.spec.limits, _family(runner.process.pid, below))
        if why is not None:
            runner.end(why)


def too_much(limits: Limits, family: list[psutil.Process]) -> str | None:
    """What of the limits these processes exceed together, as a sentence; None: nothing."""
    if limits.processes is not None and len(family) > limits.processes:
        return f"used {len(family)} processes, limits.processes is {limits.processes}"
    if limits.memory is None or sum(map(_resident, family)) <= limits.memory:
        return None
    used = sum(map(_share, family))
    if used <= limits.memory:
        return None
    return f"used {size(used)}, limits.memory is {size(limits.memory)}"


def _family(pid: int, below: dict[int, list[psutil.Process]]) -> list[psutil.Process]:
    with suppress(psutil.Error):
        found = [psutil.Process(pid)]
        for one in found:  # which grows meanwhile
            found += below.get(one.pid, ())
        return found
    return []


def _resident(process: psutil.Process) -> int:
    """Bytes in memory; what several processes share is counted for each, which is quickly told."""
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _share(process: psutil.Process) -> int:
    """Bytes in memory; of what several processes share each has its part, where the system tells."""
    with suppress(psutil.Error):
        told = process.memory_full_info()
        return int(getattr(told, "pss", told.rss))
    return 0
