"""The long form of the launch tests, with figures: `make cluster`.

python -m tests.cluster [--only ray,slurm,namespaces] [--seed 7]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import namespaces, ray_run, slurm_run
from tests.cluster.namespaces import NoNamespacesError
from tests.cluster.ray_cluster import ray_missing
from tests.cluster.slurm_cluster import NoSlurmError
from tests.support.pg import NoPostgresError


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    group: str
    what: str
    run: Callable[[Path, int], str]


class LeftOutError(RuntimeError):
    """This machine lacks what a row needs."""


def _on_ray(run: Callable[[Path, int], str]) -> Callable[[Path, int], str]:
    def checked(folder: Path, seed: int) -> str:
        if (missing := ray_missing()) is not None:
            raise LeftOutError(missing)
        return run(folder, seed)

    return checked


TABLE = [
    Row("ray", "a node dies", _on_ray(ray_run.node_killed)),
    Row("ray", "the head dies", _on_ray(ray_run.head_killed)),
    Row("slurm", "a node dies, tasks are preempted", slurm_run.run_slurm),
    Row("slurm", "the time limit comes", slurm_run.run_slurm_time_limits),
    Row("namespaces", "a machine is cut off and returns", namespaces.run_namespaces),
]


def main() -> int:
    """Run the rows and print the table; exit status 1 when something did not hold."""
    groups = list(dict.fromkeys(row.group for row in TABLE))
    parser = argparse.ArgumentParser(description="Search on several machines, and take some of them away.")
    parser.add_argument("--only", default=",".join(groups), help=f"some of {', '.join(groups)}")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(groups):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    broken = 0
    print(f"seed {options.seed}\n{'on':<12}{'what':<36}{'s':>5}  figures", flush=True)
    for row in TABLE:
        if row.group not in wanted:
            continue
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="hpo-cluster-") as folder:
                figures = row.run(Path(folder), options.seed)
        except (LeftOutError, NoNamespacesError, NoPostgresError, NoSlurmError) as error:
            figures = f"left out: {error}"
        except Exception as error:
            broken += 1
            figures = f"BROKEN: {error}".splitlines()[0][:300]
            traceback.print_exc()
        print(f"{row.group:<12}{row.what:<36}{time.monotonic() - began:>5.0f}  {figures}", flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
