"""Templates: a page is a whole document, its live parts are rendered again whenever something changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup

from hpo import text
from hpo.report.templating import templates


@dataclass(frozen=True)
class Page:
    """What a view shows.

    Attributes:
        template: the document; it places a live part with `live("name")`.
        context: what the templates read.
        parts: live parts: element id -> template.
        topics: changes after which the parts are rendered again.
        version: of the charts on the page; a new one makes the browser ask for them again.
    """

    template: str
    context: Mapping[str, Any]
    parts: Mapping[str, str] = field(default_factory=dict)
    topics: frozenset[str] = frozenset()
    version: int = 0


@dataclass(frozen=True)
class Part:
    """One live part as HTML, and a digest to tell whether it changed."""

    id: str
    html: str
    digest: str


def render_parts(page: Page) -> dict[str, Part]:
    """Every live part as it is now."""
    found = {}
    for part_id, template in page.parts.items():
        html = environment().get_template(template).render(page.context)
        found[part_id] = Part(part_id, html, hashlib.sha256(html.encode()).hexdigest()[:16])
    return found


def render(page: Page, **more: Any) -> str:
    """The whole document."""
    parts = render_parts(page)

    def live(part_id: str) -> Markup:
        part = parts[part_id]
        # The part was escaped when it was rendered.
        return Markup('<div id="{}" data-live="{}">{}</div>').format(
            part.id,
            part.digest,
            Markup(part.html),  # noqa: S704
        )

    context = {**page.context, **more, "live": live, "is_live": bool(page.topics)}
    return environment().get_template(page.template).render(context)


@cache
def environment() -> jinja2.Environment:
    """The templates' environment: everything is escaped, an unknown name is an error."""
    made = templates("hpo.dashboard")
    made.filters.update(
        path=lambda name: quote(str(name), safe=""),
        clock=_clock,
        bytes=text.size,
        spark=sparkline,
    )
    made.globals.update(
        query=query, query_of=lambda names: "?" + urlencode([("study", name) for name in names])
    )
    return made


def query(current: Mapping[str, Any], **changes: Any) -> str:
    """`?a=b` of the current parameters with some changed; None and "" leave one out."""
    merged = {**current, **changes}
    kept = {key: value for key, value in merged.items() if value not in (None, "")}
    return "?" + urlencode(kept)


def sparkline(curve: tuple[tuple[int, float], ...], end: int) -> str:
    """Best so far as the `d` of an SVG path in a box of 120 x 28; "" where there is nothing to draw.

    The ends of the value's range are the curve's own; a step holds until the next improvement.
    """
    if not curve:
        return ""
    last = max(end, curve[-1][0], 1)
    values = [value for _, value in curve]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def place(number: float, value: float) -> str:
        height = 14.0 if high == low else 25.0 - 22.0 * (value - low) / span
        return f"{2 + 116 * number / last:.1f} {height:.1f}"

    path = f"M{place(*curve[0])}"
    for (_, before), (number, value) in pairwise(curve):
        path += f"L{place(number, before)}L{place(number, value)}"
    return path + f"L{place(last, values[-1])}"


def _clock(time: float | str | datetime | None) -> str:
    """A time (seconds since the epoch, ISO 8601) as "2026-03-02 09:00:05 UTC"."""
    if time is None:
        return "–"
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    moment = time if isinstance(time, datetime) else datetime.fromtimestamp(time, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
