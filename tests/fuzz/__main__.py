"""The long form of the fuzz tests: `make fuzz`.

python -m tests.fuzz [--scale 1.0] [--seed 7] [--only requests]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import cases, checks


def drive(number: int, count: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """`count` examples; the first that fails is made small and raised."""

    @seed(number)
    @given(strategy)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        check(case)

    began = time.monotonic()
    run()
    print(f"{check.__name__}: {count:,} in {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """All four kinds."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0: 10,000 study files and the rest")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", choices=["files", "commands", "requests", "objectives"])
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)

    def throw(kind: str, count: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
        if chosen.only in (None, kind):
            drive(chosen.seed, max(1, round(count * chosen.scale)), strategy, check)

    with tempfile.TemporaryDirectory() as scratch:
        folder = checks.a_place(Path(scratch))

        def check_request(case: tuple[str, str, dict[str, str], bytes]) -> None:
            checks.check_request(client, case)

        def check_command_line(words: list[str]) -> None:
            checks.check_command_line(words, folder)

        def check_objectives(bodies: list[str]) -> None:
            with tempfile.TemporaryDirectory() as place:
                checks.check_objectives(bodies, Path(place))

        throw("files", 10_000, cases.study_files(), checks.check_study_file)
        throw("commands", 1_000, cases.command_lines(), check_command_line)
        with checks.a_dashboard(folder) as client:
            throw("requests", 5_000, cases.requests(), check_request)
        ten = st.lists(cases.objectives(), min_size=10, max_size=10)
        throw("objectives", 10, ten, check_objectives)


if __name__ == "__main__":
    main()
