"""What an attempt may use: memory, processes, the size of its log and of its attributes."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from hpo.spec.fields import Section, Whole, at_least, at_most, whole
from hpo.spec.problems import problem, shown

_FORM = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([kKMGT]?)(i?)B")
_MOST = 2**50  # bytes


def _bytes(value: Any) -> int:
    if not isinstance(value, str):
        return int(whole(value))
    match = _FORM.fullmatch(value.strip())
    if match is None:
        raise problem(f"must be a size like 8GB, 500MB or 512MiB, got {shown(value)}")
    power = " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * float(1024 if match[3] else 1000) ** power)


Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    at_most(_MOST),
    WithJsonSchema({"type": ["integer", "string"]}),
]


class Limits(Section):
    """What an attempt may use. One that goes over fails and says so; of a log the middle is left out."""

    memory: Annotated[Bytes, at_least(1_000_000)] | None = Field(
        default=None,
        description="Memory of the runner and all it has started, like 8GB; absent: no limit.",
    )
    processes: Annotated[Whole, at_least(1)] | None = Field(
        default=None, description="Processes: the runner and all it has started; absent: no limit."
    )
    log: Annotated[Bytes, at_least(10_000)] = Field(
        default=50_000_000, description="Size of an attempt's log; beyond it head and tail are kept."
    )
    attribute: Annotated[Bytes, at_least(100)] = Field(
        default=1_000_000, description="Size of one attribute of a trial or of the study, as JSON."
    )

    @property
    def are_watched(self) -> bool:
        """Whether a worker must look at what its runners use."""
        return self.memory is not None or self.processes is not None
