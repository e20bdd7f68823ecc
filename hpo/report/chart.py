"""What a chart is: an entry of the catalogue, and the picture it makes of a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from storage.history.records import StudyHistory

Size = Literal["full", "half", "third"]
TITLE_ROOM = 36  # pixels above a figure that its title takes


@dataclass(frozen=True)
class Picture:
    """A chart, drawn. On a screen below `min_width` pixels it scrolls sideways, not shrinks."""

    id: str  # unique in the report; also the picture's file name
    figure: go.Figure
    caption: str
    size: Size
    min_width: int

    @property
    def title(self) -> str:
        """The figure's own title. It is escaped already: show it as it is."""
        return str(self.figure.layout.title.text or "")

    def untitled(self) -> dict[str, Any]:
        """Plotly's `data` and `layout` without title and template: a page has headings and sets the theme."""
        raw = self.figure.to_plotly_json()
        layout = {key: value for key, value in raw["layout"].items() if key not in ("template", "title")}
        margin = {**layout.get("margin", {})}
        margin["t"] = max(16, margin.get("t", 56) - TITLE_ROOM)
        return {"data": raw["data"], "layout": {**layout, "margin": margin}}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One kind of chart, as the catalogue describes it.

    `record(history, objective)` gives what is drawn, None where there is nothing; with `parts` a mapping of
    such records by the name of the part. Of several studies it is `record(histories)`. Where a person has
    picked parameters (`picks`), a tuple of their names follows; "" for the most important.
    """

    name: str  # in the names of pictures' files, and in the dashboard's addresses
    record: Callable[..., Any]
    draw: Callable[[Any, str], go.Figure]  # a record, with this title
    title: str = ""
    section: str = ""
    applies: Callable[[Any], bool] = bool  # whether there is something to see in the record
    caption: Callable[[Any], str] = lambda _: ""
    size: Size | Callable[[Any], Size] = "full"
    height: int = 380  # pixels, unless the drawing chooses its own
    min_width: Callable[[Any], int] = lambda _: 0
    # A picture of each objective; or one picture, of any study, or only with one or with several objectives.
    objectives: Literal["each", "any", "one", "several"] = "each"
    parts: Callable[[int], int] | None = None  # how many a page has room for, by the number of parameters
    address: str = ""  # where the dashboard calls it otherwise in a study of one direction
    log: bool = False  # the value axis may be logarithmic
    # Another metric than the reported one may be picked: its curves, or the last of complete trials.
    metric: Literal["", "curves", "last"] = ""
    picks: int = 0  # parameters that may be picked
    outline: bool = False  # the values of the trials are all it needs

    def indices(self, directions: int) -> range:
        """The objectives that a study of so many directions has a picture of."""
        if self.objectives == "each":
            return range(directions)
        return range({"one": directions == 1, "several": directions > 1, "any": True}[self.objectives])

    def ending(self, objective: int, directions: int, form: str) -> str:
        """What tells the pictures of several objectives apart: `form` of the number."""
        return form.format(objective + 1) if self.objectives == "each" and directions > 1 else ""

    def pictures(self, history: StudyHistory, objective: int) -> Iterator[Picture]:
        """One picture, or one of each part; none where there is nothing to show."""
        name = self.name + self.ending(objective, len(history.directions), "-{}")
        found = self.record(history, objective)
        records = (
            {f"{name}-{part}": record for part, record in found.items()} if self.parts else {name: found}
        )
        ending = self.ending(objective, len(history.directions), ", objective {}")
        for picture_id, record in records.items():
            if picture := self.picture(picture_id, record, ending):
                yield picture

    def picture(self, picture_id: str, record: Any, ending: str = "") -> Picture | None:
        """The picture of one record; `ending` is added to the title."""
        if record is None or not self.applies(record):
            return None
        figure = self.draw(record, self.title + ending)
        if figure.layout.height is None:
            figure.layout.height = self.height
        size = self.size(record) if callable(self.size) else self.size
        return Picture(picture_id, figure, self.caption(record), size, self.min_width(record))
