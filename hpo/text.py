"""Numbers, durations and names as a person reads them."""

from __future__ import annotations

import math
from typing import Any

MAX_LABEL = 40  # characters of a name that still fit beside an axis


def number(value: float | int | None, digits: int = 4) -> str:
    """A number with `digits` significant digits; "–" for None, "not finite" spelt out."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Seconds as "850 ms", "12.3 s", "4 min 05 s", "3 h 20 min" or "2 d 4 h"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: float | None) -> str:
    """Bytes as "831 B", "12.4 kB" or "3.2 GB", in units of a thousand."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def value(item: Any) -> str:
    """A parameter's value: numbers shortened, everything else as it prints."""
    if isinstance(item, bool) or item is None:
        return str(item)
    if isinstance(item, float):
        return number(item)
    return str(item)


def label(text: object, limit: int = MAX_LABEL) -> str:
    """One line of at most `limit` characters; what was cut away is shown by "…"."""
    line = " ".join(str(text).split()) or "(empty)"
    return line if len(line) <= limit else line[: limit - 1] + "…"


def joined(*sentences: str) -> str:
    """Those that say something, one after another."""
    return " ".join(sentence for sentence in sentences if sentence)


def counted(n: int, one: str, several: str | None = None) -> str:
    """ "1 trial", "2,000 trials"; "1 trial waits" and "2 trials wait" where both are given."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def listed(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]
