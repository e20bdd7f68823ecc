"""Whether a study's result is confirmed when the search has ended, and how."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hpo.spec.fields import Section, Whole, at_least, at_most


class Confirm(Section):
    """The best settings, and the first, are trained again with fresh seeds when the search has ended."""

    top: Annotated[Whole, at_least(1), at_most(100)] = Field(
        default=5, description="How many of the best settings."
    )
    seeds: Annotated[Whole, at_least(2), at_most(1000)] = Field(
        default=10, description="Trainings of each, at most: what can no longer win is trained no further."
    )


def switched(value: Any) -> Any:
    """`true` as the defaults, `false` as nothing; anything else as it is."""
    return ({} if value else None) if isinstance(value, bool) else value
