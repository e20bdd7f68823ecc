"""`keep`: how many trials keep their weights."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.spec import StudySpec, parse_spec, spec_differences


def spec(**fields: Any) -> StudySpec:
    base = {"study": "s", "objective": "m", "direction": "minimize", "budget": {"trials": 5}}
    return parse_spec({**base, **fields})


@pytest.mark.parametrize(
    ("written", "best", "last"),
    [
        ("best 3, last 1", 3, 1),
        ("last 4", 5, 4),
        ("best all", None, 2),
        ({"best": 1}, 1, 2),
        ({"best": None}, None, 2),
        ({"best": "all", "last": 1}, None, 1),
        (None, 5, 2),
    ],
)
def test_it_may_be_written_short_or_as_a_mapping(written: Any, best: int | None, last: int) -> None:
    keep = spec(keep=written).keep
    assert (keep.best, keep.last) == (best, last)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("three", "best 3, last 1"),
        ("best 3, best 4", "best 3, last 1"),
        (["best"], "best 3, last 1"),
        ({"best": 0}, "keep.best must be at least 1, got 0"),
        ("last 0", "keep.last must be at least 1, got 0"),
        ({"worst": 1}, "keep.worst"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(written: Any, told: str) -> None:
    """The winner's weights can always be evaluated, so none at all is no choice."""
    with pytest.raises(SpecError) as refused:
        spec(keep=written)
    assert told in str(refused.value)


def test_it_makes_no_study_another_one() -> None:
    lean, fat = spec(keep="best 1"), spec(keep="best all")
    assert lean.digest == fat.digest == spec().digest
    assert spec_differences(lean, fat) == []


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (
            "https://hooks.example.org/T0/secret",
            "notify.0.webhook must be the name of an environment variable",
        ),
        ("HPO_STORAGE", "like HPO_NOTIFY_URL, got 'HPO_STORAGE'"),
        ({"command": "rm -rf"}, "notify.0.command must be a list of words"),
        ({"webhook": "HPO_NOTIFY_A", "command": ["x"]}, "needs a webhook or a command, and not both"),
        ({"webhook": "HPO_NOTIFY_A", "on": ["epoch"]}, "must be a list of end, best, failing, lost, nearly"),
        ([{}] * 11, "notify has 11 receivers; at most 10"),
    ],
)
def test_a_webhook_is_named_never_written_down(written: Any, told: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(notify=written)
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "share"), [("30 %", 0.3), ("12.5%", 0.125), (0, 0.0), (1, 1.0), (None, None)]
)
def test_a_share_of_proposals_and_who_is_told_make_no_study_another_one(
    written: Any, share: float | None
) -> None:
    changed = spec(proposals=written, notify="HPO_NOTIFY_URL")
    assert changed.proposals == share
    assert changed.digest == spec().digest
    with pytest.raises(SpecError, match="must be a share from 0 % to 100 %"):
        spec(proposals="130 %")
