"""What the API answers with besides `hpo.studies.answers`: pages, pictures, what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from hpo.report.records.summary import Compared
from hpo.studies.answers import Point, Says, Study, Trial, Worker
from storage.queue.events import Event
from storage.queue.launches import Launch


@dataclass(frozen=True)
class Problem:
    """What every error is answered with."""

    error: Annotated[str, Says("A sentence for a person.")]


@dataclass(frozen=True)
class Studies:
    """One page of studies."""

    studies: list[Study]
    total: int
    page: int
    pages: int


@dataclass(frozen=True)
class Events:
    """Who did what to a study."""

    events: list[Event]


@dataclass(frozen=True)
class Trials:
    """One page of trials."""

    trials: list[Trial]
    total: int
    page: int
    pages: int


@dataclass(frozen=True)
class Chart:
    """A picture of a study."""

    figure: Annotated[dict[str, Any] | None, Says("Plotly `data` and `layout`; null: nothing to see yet.")]
    caption: str
    title: str
    size: Annotated[str, Says("Of its place on a page: full, half or third of the width.")]
    min_width: Annotated[int, Says("Pixels it needs; on a smaller screen it scrolls sideways.")]
    version: Annotated[int, Says("Rises when the study changes.")]
    again: Annotated[float | None, Says("Seconds until a newer one may be had.")] = None


@dataclass(frozen=True)
class TrialChart:
    """A picture of a trial."""

    id: str
    size: str
    figure: dict[str, Any] | None
    caption: str
    title: str
    min_width: int


@dataclass(frozen=True)
class Charts:
    """Pictures of a trial."""

    charts: list[TrialChart]


@dataclass(frozen=True)
class Log:
    """Some of what one attempt printed; places are bytes of the whole."""

    attempt: int
    log: Annotated[str | None, Says("null when it cannot be read from here.")]
    start: int = 0
    end: Annotated[int, Says("Where the next part begins; ask for it with `start`.")] = 0
    size: Annotated[int, Says("Of the whole log so far.")] = 0


@dataclass(frozen=True)
class Metrics:
    """Names of metrics, and of the parameters that vary."""

    metrics: list[str]
    parameters: list[str]


@dataclass(frozen=True)
class Curves:
    """Named metrics by trial and name."""

    curves: dict[str, dict[str, list[Point]]]


@dataclass(frozen=True)
class Workers:
    """Workers."""

    workers: list[Worker]


@dataclass(frozen=True)
class Launches:
    """Launches."""

    launches: list[Launch]


@dataclass(frozen=True)
class Comparison:
    """Studies beside each other."""

    studies: list[Compared]


@dataclass(frozen=True)
class Done:
    """What was done, as a sentence."""

    message: str
