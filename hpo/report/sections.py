"""Which pictures a report shows, in which order; and those of one trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hpo.report import catalogue
from hpo.report.chart import Picture
from hpo.report.records.progress import machines
from hpo.report.records.training import Evaluation, metrics_by_unit
from storage.history.records import StudyHistory, TrialRecord


@dataclass(frozen=True)
class Section:
    """Pictures under one heading."""

    id: str
    title: str
    intro: str = ""
    pictures: tuple[Picture, ...] = ()


SECTIONS = (
    Section("progress", "Progress"),
    Section("learning", "Learning curves"),
    Section("parameters", "Parameters"),
    Section(
        "slices",
        "Slices",
        "One point per trial: a circle is complete, an open triangle was pruned (its last report), "
        "a cross breaks a constraint, the star is the best.",
    ),
    Section("winner", "The best trial"),
    Section("time", "Time"),
)


def study_sections(history: StudyHistory) -> tuple[Section, ...]:
    """Every section that has something to show for one study."""
    best = history.chosen
    titles = {"winner": f"The best trial ({best.number})"} if best else {}
    return tuple(
        Section(section.id, titles.get(section.id, section.title), section.intro, drawn)
        for section in SECTIONS
        if (drawn := tuple(pictures(history, section.id)))
    )


def short_sections(history: StudyHistory, prefix: str) -> tuple[Section, ...]:
    """A study in short, for the comparison of several: how it went, and what mattered."""
    firsts = [next(pictures(history, section), None) for section in ("progress", "parameters")]
    drawn = tuple(replace(picture, id=prefix + picture.id, size="half") for picture in firsts if picture)
    return (Section(prefix + "short", "", pictures=drawn),) if drawn else ()


def comparison_sections(histories: Sequence[StudyHistory]) -> tuple[Section, ...]:
    """Several studies in one picture each; nothing where their values cannot share one."""
    if not comparable(histories):
        return ()
    drawn = tuple(
        p for chart in catalogue.COMPARISON if (p := chart.picture(chart.name, chart.record(histories)))
    )
    return (Section("comparison", "Comparison", pictures=drawn),) if drawn else ()


def comparable(histories: Sequence[StudyHistory]) -> bool:
    """Whether the values of these studies can share a picture."""
    return len({history.directions for history in histories}) == 1 and len(histories[0].directions) == 1


def pictures(history: StudyHistory, section: str) -> Iterator[Picture]:
    """A section's pictures of one study, drawn one after another."""
    directions = len(history.directions)
    for objective in range(directions):
        for chart in catalogue.STUDY:
            if chart.section == section and objective in chart.indices(directions):
                yield from chart.pictures(history, objective)


def trial_pictures(history: StudyHistory, trial: TrialRecord, evaluation: Evaluation | None) -> list[Picture]:
    """Every picture of one trial: its reports, its metrics by unit, and what it was evaluated to."""
    drawn = [
        catalogue.METRICS.picture(f"metric-{found.title}", found) for found in metrics_by_unit(history, trial)
    ]
    machine = catalogue.find("machines")[0]
    drawn += [machine.picture(machine.name, machines(history, trial))]
    drawn += [chart.picture(chart.name, evaluation) for chart in catalogue.EVALUATION]
    return [picture for picture in drawn if picture]
