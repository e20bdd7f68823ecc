"""What the command line prints: parameters, tables."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hpo.cli.output import assigned, print_table


@pytest.mark.parametrize(
    ("params", "printed"),
    [
        ({"name": "adam", "lr": 0.1}, "name=adam, lr=0.1"),
        ({"betas": [0.9, 0.999], "loss": None}, "betas=[0.9, 0.999], loss=null"),
        (
            {"bias": True, "units": (64, 32), "nested": {"a": [1, None]}},
            "bias=true, units=[64, 32], nested={a: [1, null]}",
        ),
        ({}, "-"),
    ],
)
def test_every_parameter_is_told_with_its_value(params: dict[str, Any], printed: str) -> None:
    """A parameter called `name`, a choice that is null and one that is a list were lost or ran together."""
    assert assigned(params) == printed


@pytest.mark.parametrize(
    ("width", "printed"),
    [
        (
            60,
            """number  state     params                      runner
17      complete  lr=0.000716367, hidden=220  vm:9/0""",
        ),
        (
            45,
            """number  state     params
17      complete  lr=0.000716367, hidden=220""",
        ),
        (
            36,
            """number  state     params
17      complete  lr=0.000716367,
                  hidden=220""",
        ),
        (
            26,
            """number  state     params
17      complete  lr=0.000
                  716367,
                  hidden=2
                  20""",
        ),
    ],
)
def test_a_table_parts_no_word_where_there_is_room_for_it(
    width: int, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be spared goes first, then cells fold between words, and within them at last."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    row = [17, "complete", "lr=0.000716367, hidden=220", "vm:9/0"]
    print_table(["number", "state", "params", "runner"], [row], spare=["runner"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert [line.rstrip() for line in plain.splitlines()] == printed.splitlines()


def test_a_table_tells_times_to_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["at", "right"], [["2026-11-22T23:12:08.662Z", True]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["2026-11-22T23:12:08Z", "true"]
