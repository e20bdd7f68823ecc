"""In which order tests run: `--dist worksteal` cuts the list into equal parts, one for each process.

A process that is through takes over half of what another has left, but not the test that runs. So what takes
long comes first everywhere, and what is short last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

WAITING = ("faults", "cluster", "integration")  # for leases, servers, signals; they leave the cores to others
LONG = ("end_to_end", "objectives_foreign", "objectives", "dashboard", "report")


class Test(Protocol):
    """What is put in order."""

    @property
    def path(self) -> Path: ...


T = TypeVar("T", bound=Test)


def dealt(tests: Sequence[T], root: Path, parts: int) -> list[T]:
    """The tests in so many parts of equal length, one after another.

    The first begins with those that mostly wait, the others with long ones, a module whole; the rest of each
    are short. Within a module the order stays.

    Args:
        tests: in any order.
        root: the folder that has `faults` and the others in it.
        parts: at least 1.
    """
    modules: defaultdict[Path, list[T]] = defaultdict(list)
    for test in tests:
        modules[test.path].append(test)
    kinds: defaultdict[tuple[str, ...], list[list[T]]] = defaultdict(list)
    for path, found in modules.items():
        folder = path.relative_to(root).parts[0] if root in path.parents else ""
        kinds[next((kind for kind in (WAITING, LONG) if folder in kind), ())].append(found)
    shares = [_joined(kinds[WAITING]), *(_joined(kinds[LONG][i :: parts - 1]) for i in range(parts - 1))]
    short = _joined(kinds[()] if parts > 1 else [*kinds[LONG], *kinds[()]])
    ordered: list[T] = []
    for left, share in zip(range(parts, 0, -1), shares, strict=True):
        room = (len(tests) - len(ordered)) // left - len(share)
        fill = short if left == 1 else short[: max(0, room)]
        ordered += [*share, *fill]
        short = short[len(fill) :]
    return ordered


def _joined(modules: Iterable[list[T]]) -> list[T]:
    return [test for module in modules for test in module]
