"""Rules about the repository itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = "hpo layers point downward"

# Spelled with a class of one letter, so that this file does not match itself.
LEAKS = {
    "a path of somebody's machine": r"(?<![\w.])/(?:hom[e]|Use[r]s|wor[k]|roo[t])/(?!\.\.\.)[\w.-]+",
    "the address of a package registry": r"py[p]i\.org|pythonho[s]ted|np[m]js\.org|deb\.debi[a]n\.org",
}


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", LEAKS)
def test_no_tracked_file_names(what: str) -> None:
    """A checkout works anywhere: nothing in it may point to where it was written."""
    found = []
    for path in tracked_files():
        text = path.read_bytes()
        if b"\0" in text:
            continue
        for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
            if match := re.search(LEAKS[what], line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, f"{what}:\n" + "\n".join(found)


def test_every_test_and_file_that_a_document_names_is_there() -> None:
    """A test in the file that is linked; and every row of what each can do at worst names one."""
    documents = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    for document, text in documents.items():
        for path in re.findall(r"`((?:hpo|objectives|storage|tests|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), (document.name, path)
        for name, file in re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", text):
            assert f"def {name}(" in (document.parent / file).read_text(), (document.name, name)
    table = [line for line in documents[ROOT / "docs/security.md"].splitlines() if line.startswith("| ")]
    assert not [row for row in table[1:] if "[`test_" not in row.split(" | ")[-1]]


def test_no_secret_or_study_database_is_tracked() -> None:
    """`.env`, databases and artifacts belong to whoever runs hpo."""
    names = [str(path.relative_to(ROOT)) for path in tracked_files()]
    assert not [name for name in names if re.search(r"(^|/)\.env$|\.db(-wal|-shm)?$|^hpo-artifacts/", name)]


def test_import_rules_hold() -> None:
    """Every import-linter contract in pyproject.toml is kept."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_rules_see_every_module() -> None:
    """A folder without __init__.py would be no part of the graph that they are checked in."""
    seen = grimp.build_graph("hpo", "objectives", "storage").modules
    files = (path for package in ("hpo", "objectives", "storage") for path in (ROOT / package).rglob("*.py"))
    modules = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    assert {module.removesuffix(".__init__") for module in modules} <= seen


def test_the_service_knows_none_of_optunas_private_tables() -> None:
    """No import rule can name them, for they are part of another package."""
    named = [path for path in (ROOT / "hpo").rglob("*.py") if "_rdb" in path.read_text()]
    assert not named


def declared_layers() -> set[str]:
    """The modules named in the contract that orders the packages of hpo."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {contract["name"]: contract for contract in project["tool"]["importlinter"]["contracts"]}
    assert LAYERS in contracts, f"pyproject.toml has no import contract named {LAYERS!r}"
    contract = contracts[LAYERS]
    assert contract["type"] == "layers"
    prefixes = [f"{container}." for container in contract.get("containers", [])] or [""]
    return {
        prefix + name.strip().strip("()")
        for layer in contract["layers"]
        for name in re.split(r"[|:]", layer)
        for prefix in prefixes
    }


def test_every_module_of_hpo_has_a_place_in_the_layers() -> None:
    """A new module without a declared place would escape the import rules."""
    modules = {
        f"hpo.{path.stem}"
        for path in (ROOT / "hpo").iterdir()
        if (path.suffix == ".py" and not path.stem.startswith("__")) or (path / "__init__.py").exists()
    }
    assert modules - declared_layers() == set()


def test_every_pinned_version_is_exact() -> None:
    """constraints.txt names one version of each package, and where to get it is the installer's business."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]


def test_every_dependency_is_pinned() -> None:
    """What pyproject.toml asks for has a pin, so that an install next year is the install of today."""

    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    names = {normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]) for requirement in asked} - {"hpo"}
    pins = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - pins == set()


def test_the_continuous_check_passes_on_its_exit_codes() -> None:
    """`.ci/run` stops at the first command that fails, and the file can be executed."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -eu" in script.read_text().splitlines()
