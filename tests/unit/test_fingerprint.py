"""What counts as a study's code."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import hpo.fingerprint as fingerprints
from hpo.errors import UserError
from hpo.fingerprint import differences, fingerprint, other_hpo, packed, unpack
from hpo.objective import Objective, check_settings, load_objective
from hpo.spec import StudySpec
from hpo.spec.objective import parse_objective
from objectives import imports


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text("def objective(trial):\n    return 0.0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_the_command_that_started_a_process_is_no_part_of_the_code(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be started by another command, from another directory, and runs the same code."""
    started_by = ModuleType(name)
    started_by.__file__ = str(folder / "start.py")
    (folder / "start.py").write_text("")
    objective = load_objective(parse_objective("mine.py"), folder)
    before = fingerprint(objective, folder)
    monkeypatch.setitem(sys.modules, name, started_by)
    assert fingerprint(objective, folder) == before
    assert list(before["sources"]) == ["mine"]


def test_another_version_of_hpo_is_said_and_is_no_other_code(folder: Path) -> None:
    """A study is finished after an upgrade; torch and Optuna decide results, and are refused."""
    here = fingerprint(load_objective(parse_objective("mine.py"), folder), folder)
    older = {**here, "versions": {**here["versions"], "hpo": "0.0.1"}}
    assert differences(here, older) == []
    assert other_hpo(here, older) == [f"hpo {here['versions']['hpo']} here, 0.0.1 there"]
    assert other_hpo(here, here) == []
    assert differences(here, {**here, "versions": {**here["versions"], "torch": "1.0"}})


NETWORK = """
from layers import width

def make(outputs, units=4):
    return width

def data(path):
    return [path]
"""


def spread(place: Path, name: str) -> StudySpec:
    """A study whose objective, model, data set and a module that they share lie in folders of `place`."""
    (place / "nets").mkdir(parents=True)
    (place / "nets" / "net_of_the_study.py").write_text(NETWORK)
    (place / "nets" / "layers.py").write_text("width = 3")
    (place / "data_of_the_study.py").write_text("def make(n=1):\n    return []\n")
    return StudySpec.model_validate(
        {
            "study": name,
            "objective": "objectives.classifier",
            "direction": "maximize",
            "sampler": "random",
            "budget": {"trials": 1},
            "space": {"units": {"type": "int", "low": 1, "high": 4}},
            "fixed": {"model": "nets/net_of_the_study.py:make", "dataset": "data_of_the_study.py:make"},
        }
    )


def opened(spec: StudySpec, folder: Path) -> Objective:
    """As in a fresh process."""
    for name in ("net_of_the_study", "layers", "data_of_the_study"):
        sys.modules.pop(name, None)
    imports._modules.clear()
    objective = load_objective(spec.objective_path, folder)
    check_settings(objective, spec)
    return objective


def test_a_study_is_the_same_code_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths begin at the study file; no digest knows where that lies, or where a worker was started."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = spread(tmp_path / "here", "same")
    spread(tmp_path / "there" / "copied", "same")
    found = []
    for folder in (tmp_path / "here", tmp_path / "there" / "copied"):
        for directory in (folder, folder / "nets", tmp_path):
            monkeypatch.chdir(directory)
            found.append(fingerprint(opened(spec, folder), folder)["sources"])
        monkeypatch.setattr(sys, "path", [path for path in sys.path if str(tmp_path) not in path])
    assert all(sources == found[0] for sources in found)
    assert {"net_of_the_study", "data_of_the_study", "layers", "objectives.classifier"} <= found[0].keys()


def test_an_edited_model_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = spread(tmp_path, "edited")
    before = fingerprint(opened(spec, tmp_path), tmp_path)["sources"]
    (tmp_path / "nets" / "net_of_the_study.py").write_text(NETWORK + "# edited\n")
    after = fingerprint(opened(spec, tmp_path), tmp_path)["sources"]
    assert {name for name in after if after[name] != before[name]} == {"net_of_the_study"}


def test_files_of_one_name_count_whichever_is_imported_first(folder: Path) -> None:
    """A model and a data set may lie in files of one name, in two folders."""
    for place, content in (("a", "x = 1"), ("b", "x = 2")):
        (folder / place).mkdir()
        (folder / place / "twin.py").write_text(content)
    objective = load_objective(parse_objective("mine.py"), folder)
    sources = []
    for order in (("a", "b"), ("b", "a")):
        objective.home.files.clear()
        imports._modules.clear()
        with imports.at(objective.home):
            modules = [imports.import_file(folder / place / "twin.py") for place in order]
        assert sorted(module.x for module in modules) == [1, 2]
        sources.append(fingerprint(objective, folder)["sources"]["twin"])
        for module in modules:
            del sys.modules[module.__name__]
    assert sources[0] == sources[1]


@pytest.mark.parametrize("name", ["torch.py", "storage.py", "hpo.py"])
def test_a_file_that_is_named_like_another_module_counts_alone_and_by_its_own_name(
    name: str, folder: Path
) -> None:
    (folder / name).write_text((folder / "mine.py").read_text())
    objective = load_objective(parse_objective(name), folder)
    assert list(fingerprint(objective, folder)["sources"]) == [name.removesuffix(".py")]


def test_another_studys_files_are_no_part_of_this_ones_code(folder: Path) -> None:
    """One process may run both; both lie in one folder."""
    (folder / "other.py").write_text("def objective(trial):\n    return 1.0\n")
    load_objective(parse_objective("other.py"), folder)
    objective = load_objective(parse_objective("mine.py"), folder)
    assert list(fingerprint(objective, folder)["sources"]) == ["mine"]


def test_the_users_own_files_are_kept_up_to_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is installed nor ours; beyond the limit it is said."""
    objective = load_objective(parse_objective("mine.py"), folder)
    code = fingerprint(objective, folder)
    content, why = packed(objective, {"sources": {**code["sources"], "json": "", "objectives.imports": ""}})
    assert content is not None
    assert why is None
    unpack(content, folder / "kept")
    assert [file.name for file in (folder / "kept").iterdir()] == ["mine.py"]
    monkeypatch.setattr(fingerprints, "LARGEST", 10)
    content, why = packed(objective, code)
    assert content is None
    assert "over 10" in str(why)


@pytest.mark.parametrize("name", ["../out.py", "/tmp/out.py", "a/../../out.py", "a link"])
def test_stored_code_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """Whoever has made it: nothing is written then."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("good.py", "")
        odd = zipfile.ZipInfo(name)
        odd.external_attr = 0o120777 << 16 if name == "a link" else 0
        archive.writestr(odd, "/etc")
    with pytest.raises(UserError, match="may not be there"):
        unpack(held.getvalue(), tmp_path / "kept")
    with pytest.raises(UserError, match="cannot be read"):
        unpack(b"no zip", tmp_path / "kept")
    assert not list(tmp_path.iterdir())
