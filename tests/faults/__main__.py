"""The long form of the fault table, with figures: `make faults`.

python -m tests.faults [--rows 1,2] [--on sqlite,postgresql] [--seed 7] [--short] [--kills 200]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults import damage, pipes, processes, ranks, rows
from tests.faults.lab import Lab
from tests.faults.rows import LONG, SHORT, Scale
from tests.support.pg import NoPostgresError, PgServer
from tests.support.proxy import TcpProxy

BOTH = ("sqlite", "postgresql")
SQLITE, POSTGRESQL = BOTH[:1], BOTH[1:]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    number: str  # "c": its negative control
    fault: str
    run: Callable[[Lab, Scale, PgServer | None], str]
    on: tuple[str, ...] = BOTH


def _plain(run: Callable[[Lab, Scale], str]) -> Callable[[Lab, Scale, PgServer | None], str]:
    return lambda lab, scale, _server: run(lab, scale)


def _server_away(lab: Lab, scale: Scale, server: PgServer | None) -> str:
    assert server is not None
    return rows.server_away(lab, scale, server)


def _told_while_away(lab: Lab, scale: Scale, server: PgServer | None) -> str:
    assert server is not None
    return rows.told_to_leave_while_away(lab, scale, server)


def _network_cut(lab: Lab, scale: Scale, server: PgServer | None) -> str:
    assert server is not None
    with TcpProxy(server.port) as proxy:
        return rows.network_cut(lab, scale, proxy, proxy.url(lab.url))


TABLE = [
    Row("1", "SIGKILL of runners and workers", _plain(rows.killed_at_random)),
    Row("1s", "  one a second, 4 workers", _plain(rows.killed_every_second)),
    Row("1c", "  without taking tickets back", _plain(rows.killed_without_take_back), SQLITE),
    Row("2", "SIGSTOP past the lease, SIGCONT", _plain(rows.frozen)),
    Row("2c", "  without the fence", _plain(rows.frozen_without_fence)),
    Row("3", "starts at once, empty database", _plain(rows.started_at_once)),
    Row("3c", "  without the migration lock", _plain(rows.started_without_lock), POSTGRESQL),
    Row("4", "exact budget, extend while running", _plain(rows.exact_budget)),
    Row("4c", "  with a claim in two steps", _plain(rows.inexact_budget)),
    Row("5", "SIGTERM, Ctrl-C once, twice", _plain(rows.told_to_leave)),
    Row("6", "server away", _server_away, POSTGRESQL),
    Row("6", "result done, server away, worker goes", pipes.result_kept_and_worker_told, POSTGRESQL),
    Row("6", "SIGTERM while the server is away", _told_while_away, POSTGRESQL),
    Row("7", "network cut", _network_cut, POSTGRESQL),
    Row("8", "bad objectives", _plain(rows.bad_objectives)),
    Row("9", "damaged checkpoints, disk full", _plain(damage.damaged_checkpoints), SQLITE),
    Row("9", "a table taken away", _plain(damage.table_taken_away)),
    Row("10", "clocks four hours apart", _plain(rows.wrong_clocks)),
    Row("11", "two workers of one name", _plain(rows.one_name)),
    Row("12", "step of the wall clock", _plain(processes.wall_clock_step)),
    Row("12c", "  without start ticks", _plain(processes.wall_clock_step_without_ticks), SQLITE),
    Row("13", "SIGTERM to every process", _plain(processes.told_all_at_once)),
    Row("13c", "  without handlers", _plain(processes.told_all_without_handler), SQLITE),
    Row("14", "SIGKILL of a worker with a subprocess", _plain(processes.killed_with_child)),
    Row("14c", "  without looking for it", _plain(processes.killed_with_child_left), SQLITE),
    Row("15", "SIGSTOP of a runner", _plain(pipes.stopped_runners)),
    Row("15c", "  and of its worker", _plain(pipes.stopped_worker), SQLITE),
    Row("16", "forked children that report", _plain(pipes.forked_children)),
    Row("16c", "  with their parent's pipe", _plain(pipes.forked_children_unguarded), SQLITE),
    Row("17", "result done, database away, SIGKILL", pipes.result_kept_and_worker_killed),
    Row("18", "SIGKILL of a broker that has committed", _plain(pipes.killed_before_the_acknowledgement)),
    Row("18c", "  without waiting for commits", _plain(pipes.checkpoints_before_their_reports), SQLITE),
    Row("19", "SIGKILL while trials are promoted", _plain(rows.killed_while_promoting)),
    Row("20", "SIGKILL of runners with many lanes", _plain(rows.killed_in_lanes)),
    Row("20p", "  of promoted trials", _plain(rows.killed_in_promoted_lanes)),
    Row("21", "SIGKILL of a trial's ranks", _plain(ranks.killed_ranks)),
]


@contextmanager
def _laboratory(backend: str, seed: int) -> Iterator[tuple[Lab, PgServer | None]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpo-faults-")))
        server = None
        url = f"sqlite:///{folder / 'hpo.db'}"
        if backend == "postgresql":
            server = PgServer().start()
            stack.callback(server.close)
            url = server.create_database()
        lab = Lab(folder, url, seed)
        stack.callback(lab.close)
        yield lab, server


def main() -> int:
    """Run the rows and print the table; exit status 1 when something did not hold."""
    parser = argparse.ArgumentParser(
        description="Break things and see that nothing is lost or counted twice."
    )
    parser.add_argument("--rows", help="some rows only, for example 1,2,2c")
    parser.add_argument("--on", default=",".join(BOTH), help="sqlite, postgresql or both")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="with the figures of the tests")
    parser.add_argument("--kills", type=int, help="by hand, beside those of failpoints (rows 1, 1s, 19)")
    options = parser.parse_args()
    scale = SHORT if options.short else LONG
    scale = replace(scale, kills=options.kills) if options.kills else scale
    wanted = options.rows.split(",") if options.rows else [row.number for row in TABLE]
    backends = options.on.split(",")
    broken = 0
    print(f"seed {options.seed}\n{'#':<4}{'fault':<38}{'database':<12}{'s':>5}  figures", flush=True)
    for row in TABLE:
        for backend in row.on:
            if row.number not in wanted or backend not in backends:
                continue
            began = time.monotonic()
            try:
                with _laboratory(backend, options.seed) as (lab, server):
                    figures = row.run(lab, scale, server)
            except NoPostgresError as error:
                figures = f"left out: {error}"
            except Exception as error:
                broken += 1
                figures = f"BROKEN: {error}".splitlines()[0][:300]
                traceback.print_exc()
            seconds = time.monotonic() - began
            print(f"{row.number:<4}{row.fault:<38}{backend:<12}{seconds:>5.0f}  {figures}", flush=True)
    print("a row ending in c is a negative control: there the protection is off and the damage is seen")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
