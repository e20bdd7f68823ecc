"""The whole search, as a user runs it: `digits-best` over several splits of the data, by `hpo run`.

`python -m tests.bench.bench_search --splits 0,1,2,3,4` prints, for each split, how long the command took, how
many trials were completed and pruned, and the winner's accuracy on validation and on the test set, which is
looked at once; then the means.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STUDY = Path(__file__).resolve().parents[2] / "objectives" / "studies" / "digits-best.yaml"


@dataclass(frozen=True)
class Search:
    """What one `hpo run` found."""

    seconds: float
    complete: int
    pruned: int
    validation: float
    test: float
    params: dict[str, object]


def search(split: int, folder: Path, runners: int | None) -> Search:
    """Run the study on one split of the data, in a database of its own."""
    name = f"digits-best-{split}"
    more = [] if runners is None else ["--runners", str(runners)]
    overrides = ["--set", f"fixed.split_seed={split}", "--set", f"study={name}"]
    began = time.monotonic()
    _hpo(folder, "run", str(STUDY), *overrides, *more, "--quiet")
    seconds = time.monotonic() - began
    shown = json.loads(_hpo(folder, "show", name, "--format", "json"))
    best = shown["best"]
    return Search(
        seconds=seconds,
        complete=shown["trials"]["complete"],
        pruned=shown["trials"]["pruned"],
        validation=best["values"][0],
        test=shown["test"]["accuracy"],
        params=best["params"],
    )


def _hpo(folder: Path, *args: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    done = subprocess.run(
        [sys.executable, "-m", "hpo", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if done.returncode:
        sys.exit(f"hpo {' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Print a line for each split, and the means."""
    parser = argparse.ArgumentParser(description="Search digits-best over several splits of the data.")
    parser.add_argument("--splits", default="0,1,2,3,4")
    parser.add_argument("--runners", type=int, help="default: as hpo run chooses")
    options = parser.parse_args()
    print(
        f"{'split':>5}{'s':>7}{'complete':>10}{'pruned':>8}{'validation':>12}{'test':>8}  winner", flush=True
    )
    found = []
    for split in map(int, options.splits.split(",")):
        with tempfile.TemporaryDirectory(prefix="hpo-search-") as folder:
            one = search(split, Path(folder), options.runners)
        found.append(one)
        print(
            f"{split:>5}{one.seconds:>7.0f}{one.complete:>10}{one.pruned:>8}{one.validation:>12.4f}"
            f"{one.test:>8.4f}  {one.params}",
            flush=True,
        )
    seconds, validation, test = (
        statistics.mean(values)
        for values in zip(*((one.seconds, one.validation, one.test) for one in found), strict=True)
    )
    longest = max(one.seconds for one in found)
    print(f" mean{seconds:>7.0f}{'':>18}{validation:>12.4f}{test:>8.4f}  longest {longest:.0f} s")


if __name__ == "__main__":
    main()
