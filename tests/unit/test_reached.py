"""What a function of a notebook is: its text, and that of what it uses."""

from __future__ import annotations

import functools
import linecache
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo.fingerprint import differences, fingerprint, own_fingerprint
from hpo.objective import load_objective, own_objective
from hpo.spec.objective import parse_objective

NOTEBOOK = """
import math
EPOCHS = 3
SEEN = []
COUNT = 0
UNUSED = 1

class Net:
    width = 4

    def out(self, x):
        return x * self.width

class Wide(Net):
    pass

def helper(x):
    return Wide().out(x) * EPOCHS

def objective(trial):
    global COUNT
    COUNT += 1
    SEEN.append(trial)
    return helper(math.pi)  # a remark

def make(rate):
    def inner(trial, add=0):
        return rate * helper(1) + add
    return inner

def elsewhere():
    return UNUSED
"""


def notebook(text: str = NOTEBOOK) -> dict[str, Any]:
    file = f"/tmp/ipykernel_1/{abs(hash(text))}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), names)
    return names


def code(function: Any) -> dict[str, Any]:
    return own_fingerprint(own_objective(function))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("  # a remark", "", "function objective was changed"),
        ("* EPOCHS", "* EPOCHS + 1", "function helper was changed"),
        ("EPOCHS = 3", "EPOCHS = 4", "EPOCHS was changed: 4 here, 3 there"),
        ("width = 4", "width = 5", "Net.width was changed: 5 here, 4 there"),
        ("x * self", "x + self", "function Net.out was changed"),
        ("UNUSED = 1", "UNUSED = 2", None),
        ("return UNUSED", "return 7", None),
        ("COUNT = 0", "COUNT = 9", None),
        ("SEEN = []", "SEEN = [1]", None),
    ],
)
def test_an_edit_of_what_the_objective_uses_is_told_by_name(
    before: str, after: str, said: str | None
) -> None:
    """What it does not use, and what it changes itself, is nothing to it."""
    assert NOTEBOOK.count(before) == 1
    edited = notebook(NOTEBOOK.replace(before, after))["objective"]
    found = differences(code(edited), code(notebook()["objective"]))
    assert [line.startswith(said or "-") for line in found] == [True] * (said is not None)


def test_closures_arguments_and_lambdas_are_told_apart() -> None:
    """By the values they hold; how a lambda's line goes on is nothing to it."""
    make = notebook()["make"]
    assert differences(code(make(2)), code(make(1))) == ["rate was changed: 2 here, 1 there"]
    assert code(make(2)) == code(make(2))
    one, other = functools.partial(make(1), add=5), functools.partial(make(1), add=6)
    assert len(differences(code(one), code(other))) == 1
    first, trials = lambda _: 1.0, 30
    again, trials = lambda _: 1.0, 60  # noqa: F841
    assert code(first) == code(again)
    assert differences(code(first), code(lambda _: 2.0))


def test_what_else_a_notebook_has_imported_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of a file is the same code here as in a runner: with what its file imports, at the top."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("reached_layers.py").write_text("WIDTH = 4\n")
    Path("reached_plots.py").write_text("")
    Path("reached_late.py").write_text("")
    Path("reached_mine.py").write_text(
        "from reached_layers import WIDTH\n\n"
        "def objective(trial):\n    import reached_late\n    return WIDTH\n"
    )
    in_runner = fingerprint(load_objective(parse_objective("reached_mine.py"), tmp_path), tmp_path)
    module = sys.modules["reached_mine"]
    import reached_late  # type: ignore[import-not-found]  # noqa: F401
    import reached_plots  # type: ignore[import-not-found]  # noqa: F401

    own = own_objective(module.objective)
    assert (own.named, own.why_not) == ("reached_mine.py:objective", "")
    assert own_fingerprint(own) == in_runner
    assert sorted(in_runner["sources"]) == ["reached_layers", "reached_mine"]
    names = notebook(
        "import reached_mine\n\ndef objective(trial):\n    return reached_mine.objective(trial)\n"
    )
    sources = own_fingerprint(own_objective(names["objective"]))["sources"]
    assert sorted(sources) == ["reached_layers", "reached_mine"]
