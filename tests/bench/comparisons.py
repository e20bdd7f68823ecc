"""The comparisons every course asks for, run anew: `make comparisons` writes docs/comparisons.md.

Each is a study file of objectives/studies/comparisons; its notes are the title and the paragraph. A trial is
several trainings (`seeds`), whose mean and spread it has; a search is repeated with several seeds of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hpo

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "objectives" / "studies" / "comparisons"
PAGE = ROOT / "docs" / "comparisons.md"
NAMES = (
    *("optimizers", "depth", "epochs", "recipe", "regularisers", "schedules", "batches"),
    *("transfer", "backbones", "texts", "searches"),
)
# How each of the searches is asked for, and how often.
SEARCHES: dict[str, tuple[str, ...]] = {
    "grid": ("sampler={name: grid, seed: 0}",),
    "random": ("sampler={name: random, seed: 0}",),
    "TPE": ("sampler={name: tpe, seed: 0}",),
    "ours (auto)": ("sampler={name: auto, seed: 0}", "pruner={name: auto}"),
}
# How the weights are made that some begin with.
BEFORE: dict[str, tuple[str, ...]] = {
    "transfer": (),
    "backbones": ("fixed.model=resnet18", "fixed.epochs=8"),
}
SPEAKING = ("activation", "model", "optimizer", "schedule")  # settings whose values need no name
OFF = (0, False, "none")
SEEDS = 5
INTRODUCTION = """# Comparisons

The classical ones, on data that are here, each one command. `make comparisons` runs them all and writes this
page. The numbers are validation accuracies in percent: the mean and the standard deviation over some seeds.
A difference smaller than the deviations is none.
"""

Row = tuple[str, float, float]  # what, mean and deviation in percent


def main() -> None:
    """Run the comparisons that are named, by default all, and write the page."""
    chosen = sys.argv[1:] or list(NAMES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sections = list(pool.map(apart, chosen))
    page = "\n".join([INTRODUCTION, *sections])
    PAGE.write_text(page) if chosen == list(NAMES) else print(page)


def apart(name: str) -> str:
    """`section` in a directory and a database of its own."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(STUDIES, directory, dirs_exist_ok=True)
        return section(name, Path(directory))


def section(name: str, place: Path) -> str:
    """Run one comparison; its part of the page."""
    if name == "searches":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            under_way = [pool.submit(searches, what, how, place) for what, how in SEARCHES.items()]
            rows = [search.result() for search in under_way]
    else:
        if name in BEFORE:
            run("before", place, *BEFORE[name])
            command("best", "compare-before", "--checkpoint", "before.pt", place=place)
        rows = trials(name, place)
    study = hpo.load(f"compare-{name}" + ("-grid-0" if name == "searches" else ""), storage(place))
    title, _, text = (study.spec.notes or name).strip().partition("\n")
    per = f"{SEEDS} searches" if name == "searches" else f"{study.spec.fixed.get('seeds')} trainings"
    lines = [f"## {title}\n", f"`hpo run objectives/studies/comparisons/{name}.yaml`\n", f"{text}\n"]
    lines += [f"| | accuracy, % | deviation over {per} |", "|---|---|---|"]
    lines += [f"| {what} | {mean:.2f} | {deviation:.2f} |" for what, mean, deviation in rows]
    low = int(min(mean for _, mean, _ in rows) // 10 * 10)
    names = ", ".join(f'"{what}"' for what, _, _ in rows)
    means = ", ".join(f"{mean:.2f}" for _, mean, _ in rows)
    axes = f'  x-axis [{names}]\n  y-axis "accuracy, %" {low} --> 100'
    picture = f"xychart-beta horizontal\n{axes}\n  bar [{means}]"
    return "\n".join([*lines, "", "```mermaid", picture, "```", ""])


def trials(name: str, place: Path) -> list[Row]:
    """A row for each trial of a study: what sets it apart, and its trainings' mean and deviation."""
    run(name, place)
    found = sorted(hpo.load(f"compare-{name}", storage(place)).history().trials, key=lambda t: t.number)
    varied = {key for trial in found for key in trial.params if len({str(t.params[key]) for t in found}) > 1}
    rows = []
    for trial in found:
        assert trial.value is not None, f"{name}: trial {trial.number} has no result"
        shown = {key: value for key, value in trial.params.items() if key in varied and value not in OFF}
        told = ", ".join(value if key in SPEAKING else f"{key} {value}" for key, value in shown.items())
        members: list[dict[str, Any]] = trial.user_attrs["training"]["members"]
        values = [100 * each["accuracy"] for each in members]
        rows.append((told or "none of these", statistics.fmean(values), statistics.stdev(values)))
    return rows


def searches(what: str, settings: tuple[str, ...], place: Path) -> Row:
    """One way to search, with several seeds: the best value that each search found."""
    values = []
    for seed in range(SEEDS):
        name = f"compare-searches-{what.split()[0]}-{seed}"
        changed = [text.replace("seed: 0", f"seed: {seed}") for text in settings]
        run("searches", place, f"study={name}", f"fixed.split_seed={seed}", *changed)
        best = hpo.load(name, storage(place)).best.value
        assert isinstance(best, float)
        values.append(100 * best)
    return what, statistics.fmean(values), statistics.stdev(values)


def run(name: str, place: Path, *settings: str) -> None:
    """`hpo run` of a study file, with `--set` of the settings."""
    options = [part for setting in settings for part in ("--set", setting)]
    command(
        "run",
        f"{name}.yaml",
        "--runners",
        "1",
        "--quiet",
        "--no-report",
        "--no-evaluate",
        *options,
        place=place,
    )


def command(*arguments: str, place: Path) -> None:
    """Run `hpo` there; its words go to the screen."""
    environment = {**os.environ, "HPO_STORAGE": storage(place)}
    print("hpo", *arguments, flush=True)
    subprocess.run(
        [sys.executable, "-m", "hpo", *arguments],
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def storage(place: Path) -> str:
    """Where the studies are kept meanwhile."""
    return f"sqlite:///{place / 'comparisons.db'}"


if __name__ == "__main__":
    main()
