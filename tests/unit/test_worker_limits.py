"""What makes a worker leave by itself: how times are written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from hpo.errors import UserError
from hpo.worker.limits import parse_seconds, parse_until

NOON = datetime(2026, 3, 10, 12, 0, 0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), (" 3 S ", 3)]
)
def test_a_time_is_written_with_or_without_its_unit(text, seconds):
    assert parse_seconds(text, "--idle-timeout") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "10x", "nan", "inf", "1e9h", "m", "10 m 5 s"])
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(UserError, match=r"--idle-timeout must be .* 10m or 2h"):
        parse_seconds(text, "--idle-timeout")


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("12:30", NOON + timedelta(minutes=30)),
        ("06:00", NOON + timedelta(hours=18)),
        ("12:00", NOON + timedelta(days=1)),  # now is not next
        ("2026-03-11T06:00", NOON + timedelta(hours=18)),
        ("2026-03-11 06:00:30", NOON + timedelta(hours=18, seconds=30)),
    ],
)
def test_until_is_the_next_such_time_here(text, then):
    assert parse_until(text, NOON) == then.timestamp()


def test_until_with_an_offset_means_that_zone():
    zone = timezone(timedelta(hours=5))
    then = datetime(2026, 3, 11, 6, 0, tzinfo=zone)
    assert parse_until("2026-03-11T06:00+05:00", NOON) == then.timestamp()


@pytest.mark.parametrize("text", ["", "6", "25:00", "06:60", "noon", "2026-13-01T00:00", "2026-03-11"])
def test_what_is_no_time_of_day_is_refused_with_examples(text):
    with pytest.raises(UserError, match="--until must be a time like 06:00"):
        parse_until(text, NOON)


def test_a_time_that_has_passed_or_is_far_away_is_refused():
    with pytest.raises(UserError, match="has passed: it is 2026-03-10 12:00 here"):
        parse_until("2026-03-10T11:59", NOON)
    with pytest.raises(UserError, match="more than a year"):
        parse_until("2028-01-01T00:00", NOON)
