"""What ends a worker although its study goes on: a count of trials, idleness, a time of day."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from hpo.errors import UserError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 366 * 86_400.0  # seconds


@dataclass(frozen=True)
class Limits:
    """When a worker leaves by itself; None: that never makes it leave."""

    trials: int | None = None  # after so many
    idle: float | None = None  # seconds with nothing to claim
    until: float | None = None  # time of this machine's clock, seconds since the epoch


def parse_seconds(text: str, option: str) -> float:
    """`90`, `90s`, `10m` or `2h` in seconds.

    Raises:
        UserError: anything else, or not above 0, or more than a year.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST:
        raise UserError(f"{option} must be a time above 0 like 90, 90s, 10m or 2h, got {text!r}")
    return seconds


def parse_until(text: str, now: datetime | None = None) -> float:
    """The next time this machine's clock shows `06:00`, or an ISO date-time; in seconds since the epoch.

    A date-time without an offset is meant in this machine's time zone.

    Raises:
        UserError: it is neither, or it has passed, or is more than a year ahead.
    """
    now = now or datetime.now()
    told = text.strip()
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", told):
            hour, minute = (int(part) for part in told.split(":"))
            then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            if then <= now:
                then += timedelta(days=1)
        elif "T" in told.upper() or " " in told:
            then = datetime.fromisoformat(told)
        else:
            raise ValueError(told)
    except ValueError:
        raise UserError(
            f"--until must be a time like 06:00, or a date and time like 2026-01-31T06:00, got {text!r}"
        ) from None
    ahead = then.timestamp() - now.timestamp()
    if ahead <= 0:
        raise UserError(f"--until {text} has passed: it is {now:%Y-%m-%d %H:%M} here")
    if ahead > _LONGEST:
        raise UserError(f"--until {text} is more than a year ahead")
    return then.timestamp()
