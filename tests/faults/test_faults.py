"""The fault table in its short form; `make faults` runs the same rows longer and prints figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import damage, pipes, processes, ranks, rows
from tests.faults.lab import Lab
from tests.faults.rows import SHORT
from tests.support.pg import PgServer
from tests.support.proxy import TcpProxy

SEED = int(os.environ.get("FAULT_SEED", "1"))

both = pytest.mark.parametrize("lab", ["sqlite", "postgresql"], indirect=True)
postgres = pytest.mark.parametrize("lab", ["postgresql"], indirect=True)
sqlite = pytest.mark.parametrize("lab", ["sqlite"], indirect=True)


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """An empty database and a place for a study."""
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    print(f"FAULT_SEED={SEED}")
    made = Lab(tmp_path, url, SEED)
    yield made
    made.close()


@both
def test_every_cell_once_however_many_are_killed(lab: Lab) -> None:
    print(rows.killed_at_random(lab, SHORT))


@sqlite  # `make faults` runs it on both; what is raced here has contract tests on both
def test_each_rung_once_however_many_are_killed(lab: Lab) -> None:
    print(rows.killed_while_promoting(lab, SHORT))


@sqlite  # `make faults` runs it on both
def test_every_cell_once_however_many_lanes_die_with_their_runner(lab: Lab) -> None:
    print(rows.killed_in_lanes(lab, SHORT))


@sqlite  # `make faults` runs it on both
def test_each_rung_once_however_many_promoted_lanes_die_with_their_runner(lab: Lab) -> None:
    print(rows.killed_in_promoted_lanes(lab, SHORT))


@sqlite  # `make faults` runs it on both
def test_a_trial_outlives_each_of_its_ranks(lab: Lab) -> None:
    print(ranks.killed_ranks(lab, SHORT))


@sqlite
def test_control_without_taking_back_killed_cells_are_lost(lab: Lab) -> None:
    print(rows.killed_without_take_back(lab, SHORT))


@both
def test_a_frozen_worker_wakes_and_changes_nothing(lab: Lab) -> None:
    print(rows.frozen(lab, SHORT))


@sqlite
def test_control_without_the_fence_a_frozen_worker_counts_twice(lab: Lab) -> None:
    print(rows.frozen_without_fence(lab, SHORT))


@both
def test_many_starts_on_an_empty_database_make_one_study(lab: Lab) -> None:
    print(rows.started_at_once(lab, SHORT))


@postgres  # on SQLite its own lock would do where the file is empty
def test_control_without_the_lock_starts_crash(lab: Lab) -> None:
    print(rows.started_without_lock(lab, SHORT))


@both
def test_the_budget_is_exact_and_so_is_its_extension(lab: Lab) -> None:
    print(rows.exact_budget(lab, SHORT))


@sqlite
def test_control_with_a_claim_in_two_steps_trials_run_twice(lab: Lab) -> None:
    print(rows.inexact_budget(lab, SHORT))


@sqlite
def test_a_worker_told_to_leave_gives_its_ticket_back(lab: Lab) -> None:
    print(rows.told_to_leave(lab, SHORT))


def test_workers_outlive_the_server(tmp_path: Path, own_pg_server: PgServer) -> None:
    lab = Lab(tmp_path, own_pg_server.create_database(), SEED)
    try:
        print(rows.server_away(lab, SHORT, own_pg_server))
    finally:
        lab.close()


def test_a_result_outlives_its_worker_and_the_outage(tmp_path: Path, own_pg_server: PgServer) -> None:
    lab = Lab(tmp_path, own_pg_server.create_database(), SEED)
    try:
        print(pipes.result_kept_and_worker_told(lab, SHORT, own_pg_server))
    finally:
        lab.close()


def test_a_worker_told_to_leave_in_an_outage_blames_nobody(tmp_path: Path, own_pg_server: PgServer) -> None:
    lab = Lab(tmp_path, own_pg_server.create_database(), SEED)
    try:
        print(rows.told_to_leave_while_away(lab, SHORT, own_pg_server))
    finally:
        lab.close()


@postgres
def test_a_cut_network_costs_one_worker_its_trial_and_nobody_else(lab: Lab, pg_proxy: TcpProxy) -> None:
    print(rows.network_cut(lab, SHORT, pg_proxy, pg_proxy.url(lab.url)))


@sqlite
def test_bad_objectives_are_recorded_and_survived(lab: Lab) -> None:
    print(rows.bad_objectives(lab, SHORT))


@sqlite
def test_damaged_checkpoints_are_passed_over_and_never_run(lab: Lab) -> None:
    print(damage.damaged_checkpoints(lab, SHORT))


@sqlite
def test_a_database_that_cannot_be_used_charges_no_trial(lab: Lab) -> None:
    print(damage.table_taken_away(lab, SHORT))


@postgres
def test_wrong_clocks_do_not_matter(lab: Lab) -> None:
    print(rows.wrong_clocks(lab, SHORT))


@sqlite
def test_a_step_of_the_wall_clock_buries_nobody(lab: Lab) -> None:
    print(processes.wall_clock_step(lab, SHORT))


@sqlite
def test_a_signal_to_everybody_loses_no_trial(lab: Lab) -> None:
    print(processes.told_all_at_once(lab, SHORT))


@sqlite
def test_what_a_killed_worker_left_ends_before_the_next_attempt(lab: Lab) -> None:
    print(processes.killed_with_child(lab, SHORT))


@sqlite
def test_workers_of_one_name_are_told_apart(lab: Lab) -> None:
    print(rows.one_name(lab, SHORT))


@both
def test_a_stopped_runner_delays_nobody(lab: Lab) -> None:
    print(pipes.stopped_runners(lab, SHORT))


@sqlite
def test_control_a_stopped_worker_delays_its_runners(lab: Lab) -> None:
    print(pipes.stopped_worker(lab, SHORT))


@both
def test_forked_children_that_report_do_no_harm(lab: Lab) -> None:
    print(pipes.forked_children(lab, SHORT))


@sqlite
def test_control_with_its_parents_pipe_a_forked_child_does_harm(lab: Lab) -> None:
    print(pipes.forked_children_unguarded(lab, SHORT))


@sqlite
def test_a_result_outlives_its_killed_worker_and_a_locked_file(lab: Lab) -> None:
    print(pipes.result_kept_and_worker_killed(lab, SHORT, None))


def test_a_result_outlives_its_killed_worker_and_the_outage(tmp_path: Path, own_pg_server: PgServer) -> None:
    lab = Lab(tmp_path, own_pg_server.create_database(), SEED)
    try:
        print(pipes.result_kept_and_worker_killed(lab, SHORT, own_pg_server))
    finally:
        lab.close()


@both
def test_a_broker_killed_before_it_acknowledges_leaves_no_hole(lab: Lab) -> None:
    print(pipes.killed_before_the_acknowledgement(lab, SHORT))


@sqlite
def test_control_checkpoints_that_do_not_wait_leave_holes(lab: Lab) -> None:
    print(pipes.checkpoints_before_their_reports(lab, SHORT))
