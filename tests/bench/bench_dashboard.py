"""How long people wait for a study of 10,000 trials x 20 epochs, beside optuna-dashboard on the same data.

`python -m tests.bench.bench_dashboard` (`--trials 10000 --epochs 20 --updates 10`); needs Chromium.

The database is written once, straight into the tables. Then, in the same Chromium and the same run:

first useful paint  from the start of the navigation until the numbers, the table and the optimisation
                    history stand on the page; "cold" right after the server's start, "warm" the third time
update              a trial's report and result are committed. Ours: from the server noticing it until the new
                    numbers are painted, and from the commit itself (which adds the wait until the next look).
                    optuna-dashboard has no push: what one poll of its page costs, which it makes every 10 s
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.storages._rdb import models
from playwright.sync_api import Browser, Page, sync_playwright

from hpo.settings import Settings
from hpo.spec import StudySpec
from hpo.studies.creation import create
from storage.migrate import open_database
from storage.records import StudyRow
from storage.tables import attempt, metric, ticket, worker
from tests.support.browser import CHROMIUM_ARGS, find_chromium
from tests.support.ports import free_port
from tests.support.shared import Party
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "the token of the benchmark"
PATIENCE = 120  # seconds
OURS = """() => document.querySelector('#cards .card.main dd') && document.querySelector('#trials tbody tr')
  && document.querySelector('#history-1 .scatterlayer .point') ? performance.now() : 0"""
THEIRS = "() => document.querySelector('.js-plotly-plot .scatterlayer .point') ? performance.now() : 0"


def fill(url: str, trials: int, epochs: int) -> StudyRow:
    """A study of eight parameters whose trials have all reported `epochs` times; a tenth were pruned."""
    space: dict[str, Any] = {f"p{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(7)}
    space["kind"] = {"type": "categorical", "choices": ["a", "b", "c"]}
    spec = StudySpec.model_validate(
        {
            "study": "big",
            "objective": "objectives.classifier",
            "direction": "maximize",
            "sampler": {"name": "random", "seed": 0},
            "budget": {"trials": trials + 1000},
            "space": space,
            "fixed": {"epochs": epochs},
        }
    )
    database = open_database(url)
    row = create(database, spec, Settings(storage=url, artifacts="memory://bench"))
    draw = random.Random(0)
    start = time.time() - trials
    number_of = FloatDistribution(0.0, 1.0)
    choice_of = CategoricalDistribution(("a", "b", "c"))
    distributions = {name: number_of for name in space if name != "kind"} | {"kind": choice_of}
    shown = {name: distribution_to_json(found) for name, found in distributions.items()}
    tables: dict[Any, list[dict[str, Any]]] = {}

    def put(table: Any, **values: Any) -> None:
        tables.setdefault(table, []).append(values)

    put(
        worker,
        id="w",
        name="gpu-box:1",
        host="gpu-box",
        host_key="gpu-box",
        pid=1,
        pid_started=0.0,
        state="left",
    )
    tables[worker][0] |= {"study_id": row.id, "devices": '["cpu"]', "versions": "{}", "started_at": start}
    tables[worker][0] |= {"beat_at": start, "good_attempts": trials, "bad_attempts": 0}
    trial_table, value_table = models.TrialModel.__table__, models.TrialValueModel.__table__
    param_table, report_table = models.TrialParamModel.__table__, models.TrialIntermediateValueModel.__table__
    finite = models.TrialValueModel.TrialValueType.FINITE
    finite_report = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    for n in range(trials):
        trial_id, final = n + 1, draw.random() ** 0.5
        pruned = n % 10 == 9
        state = "PRUNED" if pruned else "COMPLETE"
        put(trial_table, trial_id=trial_id, number=n, study_id=row.optuna_study_id, state=state)
        if not pruned:
            put(value_table, trial_id=trial_id, objective=0, value=final, value_type=finite)
        for name in space:
            stored = float(draw.randrange(3)) if name == "kind" else draw.random()
            put(
                param_table,
                trial_id=trial_id,
                param_name=name,
                param_value=stored,
                distribution_json=shown[name],
            )
        for step in range(1, epochs + 1):
            value = final * (1 - 0.8**step)
            put(
                report_table,
                trial_id=trial_id,
                step=step,
                intermediate_value=value,
                intermediate_value_type=finite_report,
            )
            put(metric, trial_id=trial_id, name="loss", step=step, value=1 - value)
        put(
            attempt,
            ticket_id=n + 1,
            number=1,
            trial_id=trial_id,
            trial_number=n,
            worker_id="w",
            runner=n % 4,
            device="cpu",
            state=state.lower(),
            started_at=start + n,
            ended_at=start + n + 0.9,
        )
    with database.transaction() as connection:
        for table, rows in tables.items():
            for at in range(0, len(rows), 20_000):
                connection.execute(sa.insert(table), rows[at : at + 20_000])
        for final_state, which in (
            ("complete", ticket.c.number % 10 != 9),
            ("pruned", ticket.c.number % 10 == 9),
        ):
            connection.execute(
                ticket.update()
                .where(ticket.c.study_id == row.id, ticket.c.number < trials, which)
                .values(
                    state=final_state, attempt=1, trial_id=ticket.c.number + 1, trial_number=ticket.c.number
                )
            )
    database.close()
    return row


@contextmanager
def started(command: list[str], port: int) -> Iterator[None]:
    """A server as users start it, until it listens."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
    )

    def listens() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/login", timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        wait_until(listens, 60, what=command[0])
        yield
    finally:
        process.terminate()
        process.wait(10)


def paints(page: Page, address: str, painted: str) -> float:
    """Seconds from the start of the navigation until it is painted."""
    page.goto(address, wait_until="commit")
    return wait_until(lambda: page.evaluate(painted), PATIENCE, every=0.01, what=address) / 1000


def signed_in(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address, wait_until="commit")
    return page


def measure_ours(browser: Browser, url: str, row: StudyRow, updates: int) -> dict[str, Any]:
    port = free_port()
    command = [sys.executable, "-m", "hpo", "dashboard", "--storage", url]
    with started([*command, "--port", str(port), "--token", TOKEN], port):
        page = signed_in(browser, f"http://127.0.0.1:{port}/login")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button").click()
        page.wait_for_url(f"http://127.0.0.1:{port}/")
        address = f"http://127.0.0.1:{port}/studies/big"
        found: dict[str, Any] = {"cold_s": paints(page, address, OURS)}
        page.goto("about:blank")
        paints(page, address, OURS)
        page.goto("about:blank")
        found["warm_s"] = paints(page, address, OURS)
        wait_until(lambda: page.inner_text("#pulse") == "live", 20)
        party = Party(url, row)
        inner, outer, drawn = [], [], []
        for index in range(updates + 2):
            claim = party.claim()
            party.start(claim, x=0.5)
            party.writer.report(1, 0.5, {})
            time.sleep(3.0)  # so that the change measured is the only one on its way
            chart = page.get_attribute("#history-1", "data-drawn")
            party.complete(2.0 + index)
            committed = time.perf_counter()
            want = f"document.querySelector('#cards .card.main dd').textContent === '{2 + index}'"
            wait_until(partial(page.evaluate, want), 20, every=0.005)
            outer.append(1000 * (time.perf_counter() - committed))
            redrawn = f"document.getElementById('history-1').dataset.drawn !== '{chart}'"
            wait_until(partial(page.evaluate, redrawn), 60, every=0.005)
            drawn.append(1000 * (time.perf_counter() - committed))
            inner.append(float(page.evaluate("document.documentElement.dataset.updateMs")))
        party.close()
        found["update_ms"] = statistics.median(inner[2:])
        found["update_max_ms"] = max(inner[2:])
        found["commit_to_numbers_ms"] = statistics.median(outer[2:])
        found["commit_to_chart_ms"] = statistics.median(drawn[2:])
        page.context.close()
    return found


def measure_theirs(browser: Browser, url: str, row: StudyRow) -> dict[str, Any]:
    """None stands for what took longer than `PATIENCE`."""
    port = free_port()
    command = str(Path(sys.executable).with_name("optuna-dashboard"))
    found: dict[str, Any] = {"cold_s": None, "poll_ms": None}
    with started([command, url, "--port", str(port)], port):
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        with suppress(AssertionError):
            address = f"http://127.0.0.1:{port}/dashboard/studies/{row.optuna_study_id}"
            found["cold_s"] = paints(page, address, THEIRS)
        page.context.close()  # its own polls stop
        party = Party(url, row)
        party.finish_one(50.0)
        party.close()
        asked = f"http://127.0.0.1:{port}/api/studies/{row.optuna_study_id}?after=10000"
        began = time.perf_counter()
        with suppress(OSError):
            urllib.request.urlopen(asked, timeout=PATIENCE).read()
            found["poll_ms"] = 1000 * (time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--updates", type=int, default=10)
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("no Chromium ($CHROMIUM or on the PATH)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        url = f"sqlite:///{folder}/bench.db"
        began = time.perf_counter()
        row = fill(url, options.trials, options.epochs)
        print(f"database written in {time.perf_counter() - began:.1f} s", file=sys.stderr)
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGS))
        found = {
            "trials": options.trials,
            "epochs": options.epochs,
            "load_before": os.getloadavg()[0],
            "ours": measure_ours(browser, url, row, options.updates),
        }
        print(json.dumps(found, indent=2), file=sys.stderr)
        found["optuna_dashboard"] = measure_theirs(browser, url, row)
        browser.close()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
