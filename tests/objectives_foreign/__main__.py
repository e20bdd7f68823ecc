"""`make objectives`: every kind by `hpo run` with 2 runners, on both databases, beside plain Optuna."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.objectives_foreign.kinds import KINDS, comparable, lay_out, ours, theirs
from tests.support.command import run_hpo
from tests.support.pg import PgServer


def main() -> int:
    """Print a line for each kind; 1 when one of them differs."""
    with TemporaryDirectory() as scratch, closing(PgServer()) as server:
        folder = Path(scratch)
        lay_out(folder)
        urls = {"SQLite": f"sqlite:///{folder / 'hpo.db'}", "PostgreSQL": server.start().create_database()}
        differing = [name for name, url in urls.items() if not _compared(folder, name, url)]
    return 1 if differing else 0


def _compared(folder: Path, name: str, url: str) -> bool:
    seconds = {}
    for kind in KINDS:
        began = time.monotonic()
        spec = f"{kind.name}.yaml"
        words = ("run", spec, "--runners", "2", "--no-report", "--storage", url)
        ended = run_hpo(*words, cwd=folder, timeout=240)
        seconds[kind] = time.monotonic() - began
        if ended.code:
            print(ended)
    here = {kind: ours(url, kind) for kind in KINDS}
    there = theirs(folder, {kind: [trial["params"] for trial in here[kind]] for kind in KINDS})
    equal = {kind: comparable(here[kind]) == comparable(there[kind.name]) for kind in KINDS}
    for kind in KINDS:
        verdict = "as in plain Optuna" if equal[kind] else "DIFFERS"
        print(f"{name:<11} {kind.name:<20} {kind.trials} trials {seconds[kind]:6.1f} s  {verdict}")
    print(f"{name}: {sum(equal.values())} of {len(KINDS)} as in plain Optuna")
    return all(equal.values()) and all(len(here[kind]) == kind.trials for kind in KINDS)


if __name__ == "__main__":
    sys.exit(main())
