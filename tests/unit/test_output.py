"""What the command line prints of parameters."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.cli.output import assigned


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
