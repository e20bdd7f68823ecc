"""How long people wait for a study of 10,000 trials x 20 epochs, beside optuna-dashboard on the same data.

`python -m tests.bench.bench_dashboard` (`--trials 5000 10000 --epochs 20 --updates 10`); needs Chromium.

The database is written once, straight into the tables. Then, one after the other in the same run, each in a
Chromium of its own without a cache:

first page  from the start of the navigation until the first useful paint. Ours: the frame after heading,
            counts, best value, table of trials and the optimisation history with its points stood there;
            optuna-dashboard's: the one after its history plot had points. Cold: the server's first request.
            Warm: ours the third; optuna-dashboard's after its data were asked for once more.
update      a trial's report and result are committed. Ours: from the server noticing it until the new numbers
            are painted (and from the commit itself, which adds the wait until the next look).
            optuna-dashboard has no push: what one of its polls costs, every 10 s, without drawing anything.

brush       a box is drawn in the history of a page: from the release of the button until the table shows the
            trials in it (and until the chart does). optuna-dashboard has no such thing.

charts      the page is scrolled through for the first time, once its history is read: from the moment a chart
            is in the middle of the window until it is painted. The next comes at once; one drawn below
            the window meanwhile took no time. Then each section's link is pressed first, on a server just
            started: until the charts that are then in the window are painted.

Beside each wait stands the CPU time its server spent meanwhile, which a busy machine does not change.
optuna-dashboard gets its best case: a cached storage, which its own command does not give it. What takes it
longer than `--patience` seconds is told as "> 120 s".
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
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, BrowserType, Page, sync_playwright
from playwright.sync_api import TimeoutError as TookTooLong

from storage.database.records import StudyRow
from tests.bench.big_study import fill
from tests.support.browser import CHROMIUM_ARGS, find_chromium
from tests.support.ports import free_port
from tests.support.shared import Party
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "the token of the benchmark"
PAINTED = "painted after ms: "
OURS = """document.querySelector('h1')?.textContent === 'big'
  && document.querySelectorAll('#cards .count').length
  && /\\d/.test(document.querySelector('#cards .card.main strong')?.textContent)
  && document.querySelectorAll('#trials tbody tr').length === 25
  && document.querySelector('#history-1 .scatterlayer .point')"""
READ = "document.getElementById('history-1').dataset.drawn > 0"  # 0: drawn before all was read
VIEW = """async (id) => { // seconds until this chart, in the middle of the window, is painted
  const [plot, began] = [document.getElementById(id), performance.now()];
  plot.scrollIntoView({ block: 'center' });
  while (!plot.dataset.drawn) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return (performance.now() - began) / 1000;
}"""
JUMP = """async (link) => { // seconds until each chart that is in the window after this link is painted
  const [began, took] = [performance.now(), {}];
  document.documentElement.style.scrollBehavior = 'auto';
  document.querySelector(`.sections a[href="${link}"]`).click();
  await new Promise(requestAnimationFrame);
  const seen = [...document.querySelectorAll('[data-chart]')].filter((plot) => {
    const { top, bottom } = plot.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  await Promise.all(seen.map(async (plot) => {
    while (!plot.dataset.drawn) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    took[plot.id] = (performance.now() - began) / 1000;
  }));
  return took;
}"""
THEIRS = "document.querySelector('#plot-history .scatterlayer .point')"
THEIR_SERVER = """
import sys
from optuna.storages import get_storage
from optuna_dashboard import run_server
run_server(get_storage(sys.argv[1]), port=int(sys.argv[2]))
"""


class Serving:
    """A server as users start it, once it listens; and the CPU time it spends."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, seconds: float) -> None:
        self._process = psutil.Process(process.pid)
        self.base = f"http://127.0.0.1:{port}"
        self.started_in = {"s": round(seconds, 3), "cpu_s": round(self.cpu(), 2)}

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def started(command: list[str], port: int) -> Iterator[Serving]:
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
    )

    def listens() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        wait_until(listens, 60, what=command[0])
        yield Serving(process, port, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def tab(chromium: BrowserType, painted: str) -> Iterator[Page]:
    """A tab of a browser of its own, which tells of each page when `painted` (JavaScript) became true.

    Its being closed ends the browser's processes, however busy a page keeps them.
    """
    browser: Browser = chromium.launch(executable_path=find_chromium(), args=list(CHROMIUM_ARGS))
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.add_init_script(
        f"""(() => {{
          const look = () => {{
            if (!({painted})) requestAnimationFrame(look);
            else requestAnimationFrame(() => console.debug("{PAINTED}" + performance.now()));
          }};
          requestAnimationFrame(look);
        }})()"""
    )
    yield page
    browser.close()


def first_page(page: Page, server: Serving, path: str, patience: float) -> dict[str, float | None]:
    """Seconds from the start of the navigation to the paint, and the server's CPU seconds; None: too long."""
    before = server.cpu()
    try:
        with page.expect_console_message(
            lambda message: message.text.startswith(PAINTED), timeout=1000 * patience
        ) as told:
            page.goto(server.base + path, wait_until="commit", timeout=1000 * patience)
        seconds = float(told.value.text.removeprefix(PAINTED)) / 1000
    except TookTooLong:
        return {"s": None, "cpu_s": round(server.cpu() - before, 2)}
    return {"s": round(seconds, 3), "cpu_s": round(server.cpu() - before, 2)}


def measure_ours(
    chromium: BrowserType, url: str, row: StudyRow, updates: int, patience: float
) -> dict[str, Any]:
    port = free_port()
    command = [sys.executable, "-m", "hpo", "dashboard", "--storage", url, "--port", str(port)]
    found: dict[str, Any] = {}
    with tab(chromium, OURS) as page, started([*command, "--token", TOKEN], port) as server:
        page.set_extra_http_headers(
            {"Authorization": f"Bearer {TOKEN}"}
        )  # a signed-in browser's first request
        found["start"] = server.started_in
        found["cold"] = first_page(page, server, "/studies/big", patience)
        wait_until(lambda: page.evaluate(READ), patience, what="the whole history was read")
        found["scrolled"] = scroll_through(page)
        page.goto("about:blank")
        first_page(page, server, "/studies/big", patience)
        page.goto("about:blank")
        found["warm"] = first_page(page, server, "/studies/big", patience)
        found["brush"] = measure_brushes(page, server, updates)
        found["update"] = measure_updates(page, server, url, row, updates)
    return found


def scroll_through(page: Page) -> dict[str, float]:
    """Seconds until each chart is painted that comes into view for the first time."""
    ids = page.evaluate("[...document.querySelectorAll('[data-chart]')].map((plot) => plot.id)")
    return {name: round(page.evaluate(VIEW, name), 2) for name in ids}


def measure_jumps(chromium: BrowserType, url: str, patience: float) -> dict[str, dict[str, float]]:
    """Each section's link is the first thing that is pressed, on a server just started."""
    port, found, links = free_port(), {}, ["#slices"]
    command = [sys.executable, "-m", "hpo", "dashboard", "--storage", url, "--port", str(port)]
    while links:
        with tab(chromium, OURS) as page, started([*command, "--token", TOKEN], port) as server:
            page.set_extra_http_headers({"Authorization": f"Bearer {TOKEN}"})
            first_page(page, server, "/studies/big", patience)
            wait_until(lambda: page.evaluate(READ), patience, what="the whole history was read")
            if not found:
                links = page.eval_on_selector_all(".sections a", "all => all.map((a) => a.hash)")
            link = links.pop()
            found[link] = {name: round(s, 2) for name, s in page.evaluate(JUMP, link).items()}
    return found


def measure_brushes(page: Page, server: Serving, times: int) -> dict[str, Any]:
    """A box is drawn in the history: until the table of those trials is painted, and until the chart is."""
    root = "document.documentElement.dataset"
    table, chart, spent = [], [], []
    for index in range(times + 2):  # the first two warm up
        page.goto("about:blank")
        first_page(page, server, "/studies/big", 60)
        wait_until(lambda: page.inner_text("#pulse") == "live", 20)
        time.sleep(1.5)
        box = page.locator("#history-1 .nsewdrag").bounding_box()
        assert box is not None
        before = server.cpu()
        page.mouse.move(box["x"] + 40 + 5 * index, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + 400, box["y"] + 150, steps=3)
        page.mouse.up()
        began = time.perf_counter()
        wait_until(lambda: page.evaluate(f"{root}.selectMs"), 20, every=0.005)
        table.append(float(page.evaluate(f"{root}.selectMs")))
        drawn = "Math.max(...document.getElementById('history-1').data[0].x) < 9000"
        wait_until(partial(page.evaluate, drawn), 20, every=0.005)
        chart.append(1000 * (time.perf_counter() - began))
        spent.append(server.cpu() - before)
    return {
        "ms": statistics.median(table[2:]),
        "max_ms": max(table[2:]),
        "cpu_s": round(statistics.median(spent[2:]), 2),
        "chart_ms": round(statistics.median(chart[2:])),
    }


def measure_updates(page: Page, server: Serving, url: str, row: StudyRow, updates: int) -> dict[str, Any]:
    wait_until(lambda: page.inner_text("#pulse") == "live", 20)
    party = Party(url, row)
    inner, outer, drawn, spent = [], [], [], []
    for index in range(updates + 2):  # the first two warm up
        claim = party.claim()
        party.start(claim, x=0.5)
        party.writer.report(1, 0.5, {})
        time.sleep(3.0)  # so that the change measured is the only one on its way
        chart = page.get_attribute("#history-1", "data-drawn")
        before = server.cpu()
        party.complete(2.0 + index)
        committed = time.perf_counter()
        want = f"document.querySelector('#cards .card.main strong').textContent === '{2 + index}'"
        wait_until(partial(page.evaluate, want), 20, every=0.005)
        outer.append(1000 * (time.perf_counter() - committed))
        redrawn = f"document.getElementById('history-1').dataset.drawn !== '{chart}'"
        wait_until(partial(page.evaluate, redrawn), 60, every=0.005)
        drawn.append(1000 * (time.perf_counter() - committed))
        spent.append(server.cpu() - before)
        inner.append(float(page.evaluate("document.documentElement.dataset.updateMs")))
    party.close()
    return {
        "ms": statistics.median(inner[2:]),
        "max_ms": max(inner[2:]),
        "cpu_s": round(statistics.median(spent[2:]), 2),
        "commit_to_numbers_ms": round(statistics.median(outer[2:])),
        "commit_to_chart_ms": round(statistics.median(drawn[2:])),
    }


def measure_theirs(chromium: BrowserType, url: str, row: StudyRow, patience: float) -> dict[str, Any]:
    port = free_port()
    found: dict[str, Any] = {}
    command = [sys.executable, "-c", THEIR_SERVER, url, str(port)]
    path = f"/dashboard/studies/{row.optuna_study_id}"
    with started(command, port) as server:
        found["start"] = server.started_in
        with tab(chromium, THEIRS) as page:
            found["cold"] = first_page(page, server, path, patience)
        found["data"] = ask(server, f"/api/studies/{row.optuna_study_id}?after=0", patience)
        with tab(chromium, THEIRS) as page:
            found["warm"] = first_page(page, server, path, patience)
        party = Party(url, row)
        party.finish_one(50.0)
        party.close()
        found["update"] = ask(
            server, f"/api/studies/{row.optuna_study_id}?after={row.budget_trials}", patience
        )
    return found


def ask(server: Serving, path: str, patience: float) -> dict[str, Any]:
    """What one request for data costs."""
    began, before = time.perf_counter(), server.cpu()
    try:
        content = urllib.request.urlopen(server.base + path, timeout=patience).read()
    except OSError:
        return {"ms": None, "cpu_s": round(server.cpu() - before, 2)}
    took = round(1000 * (time.perf_counter() - began))
    return {"ms": took, "cpu_s": round(server.cpu() - before, 2), "megabytes": round(len(content) / 1e6, 1)}


def shown(found: dict[str, Any], patience: float) -> str:
    """ "0.84 s (0.31 s CPU)", or "> 120 s"."""
    cpu = f"{found['cpu_s']:.2f} s CPU"
    if "s" in found:
        return f"> {patience:.0f} s" if found["s"] is None else f"{found['s']:.2f} s ({cpu})"
    return f"> {patience:.0f} s" if found["ms"] is None else f"{found['ms']:.0f} ms ({cpu})"


def told(seconds: dict[str, float]) -> list[tuple[str, str]]:
    """The slowest first."""
    return [(name, f"{s:.2f}") for name, s in sorted(seconds.items(), key=lambda one: -one[1])]


def measure(chromium: BrowserType, options: argparse.Namespace, trials: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/bench.db"
        row = fill(url, trials, options.epochs, options.parameters)
        load = os.getloadavg()[0]
        ours = measure_ours(chromium, url, row, options.updates, options.patience)
        ours["jumped"] = measure_jumps(chromium, url, options.patience)
        theirs = {} if options.ours else measure_theirs(chromium, url, row, options.patience)
    print(f"{trials:,} trials x {options.epochs} epochs, load {load:.1f} before")
    print(f"{'':24}{'hpo dashboard':>26}{'optuna-dashboard':>26}")
    rows = {
        "start": "start until it answers",
        "cold": "first page, cold",
        "warm": "first page, warm",
        "update": "update",
        "brush": "a box, until the table",
    }
    for what, title in rows.items():
        other = (
            shown(theirs[what], options.patience) if what in theirs else "" if options.ours else "has none"
        )
        print(f"{title:24}{shown(ours[what], options.patience):>26}{other:>26}")
    print("s until a chart is painted, scrolled through:", ", ".join(map(" ".join, told(ours["scrolled"]))))
    for link, took in ours["jumped"].items():
        print(f"s, {link} pressed first:", ", ".join(map(" ".join, told(took))))
    return {
        "trials": trials,
        "epochs": options.epochs,
        "load": load,
        "ours": ours,
        "optuna_dashboard": theirs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, nargs="+", default=[10_000], help="sizes, one after the other")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=20)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--patience", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--ours", action="store_true", help="without optuna-dashboard")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    options = parser.parse_args()
    if find_chromium() is None:
        raise SystemExit("no Chromium ($CHROMIUM or on the PATH)")
    with sync_playwright() as playwright:
        found = [measure(playwright.chromium, options, trials) for trials in options.trials]
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
