"""Which sampler and pruner a study has whose file names none.

Where there is one direction and room for 20 trials of at least nine epochs, which are known to report each
one and to go on from a checkpoint, as those of our own objectives, it is `rungs` with promotion: for half of
the epochs of full trials the result is as good (docs/search.md). Else it is `tpe`, and every trial runs to
its end. Of a budget of epochs that has room for it six trainings are for the best three settings again:
what is returned is better for it than for as much more search. The choice is made once, when a study is
created; its spec says what was chosen, and why.
"""

from __future__ import annotations

from typing import Any

from hpo.search.pruners import promotes
from hpo.spec import StudySpec
from hpo.spec.sampling import AshaPruner, AutoPruner, AutoSampler, NoPruner, RungsSampler, TpeSampler
from hpo.spec.sections import Confirm

EPOCHS = 9  # of a full trial at least: three rungs
TRIALS = 20  # of a study at least: with fewer, full trials find better settings
ROOM = 37  # full trials that a budget of epochs has room for, from which on it pays to train the best again
CONFIRM = Confirm(top=3, seeds=2, in_budget=True)


def chosen(spec: StudySpec) -> StudySpec:
    """The spec with what it leaves open chosen, and why in `spec.chosen`; the same one if that is nothing."""
    sampler, pruner = _left_open(spec)
    if not (sampler or pruner):
        return spec
    doubt, epochs = _doubt(spec), spec.full_epochs
    parts: dict[str, Any] = {}
    if pruner:
        promote = doubt is None and spec.sampler.name != "grid"
        parts["pruner"] = (
            AshaPruner(name="asha", max_epochs=epochs or EPOCHS, mode="promote")
            if promote
            else NoPruner(name="none")
        )
    if sampler:
        seed, several = spec.sampler.seed, len(spec.directions) > 1
        promoting = promotes(spec.model_copy(update=parts)) and not several
        kind = RungsSampler(name="rungs", seed=seed) if promoting else TpeSampler(name="tpe", seed=seed)
        parts["sampler"] = kind
    names = " and ".join(parts[part].name for part in ("sampler", "pruner") if part in parts)
    why = doubt or f"its trials report each of {epochs} epochs, and go on from a checkpoint"
    changed = spec.model_copy(update=parts)
    if doubt is None and changed.sampler.name == "rungs" and sampler and _confirms(spec):
        changed = changed.model_copy(update={"confirm": CONFIRM})
        why += f"; {changed.search_epochs:,} of its epochs are for the search, the rest to confirm the best"
    return changed.model_copy(update={"chosen": f"{names}: {why}"})


def as_stored(spec: StudySpec, stored: StudySpec) -> StudySpec:
    """The spec with what it leaves open as the study has it that is stored."""
    sampler, pruner = _left_open(spec)
    parts: dict[str, Any] = {"chosen": stored.chosen}
    if sampler:
        parts["sampler"] = stored.sampler.model_copy(update={"seed": spec.sampler.seed})
    if pruner:
        parts["pruner"] = stored.pruner
    if "confirm" not in spec.model_fields_set and stored.confirm is not None and stored.confirm.in_budget:
        parts["confirm"] = stored.confirm  # the search has the fewer epochs for it
    return spec.model_copy(update=parts)


def _left_open(spec: StudySpec) -> tuple[bool, bool]:
    """Whether the sampler is to be chosen, and whether the pruner; beside a sampler that is named an absent
    pruner is none."""
    sampler = isinstance(spec.sampler, AutoSampler) or "sampler" not in spec.model_fields_set
    absent = "pruner" not in spec.model_fields_set
    return sampler, isinstance(spec.pruner, AutoPruner) or (sampler and absent)


def _confirms(spec: StudySpec) -> bool:
    """Whether six of the trainings that there is room for are better spent on the best settings again."""
    room = (spec.budget.epochs or 0) / (spec.full_epochs or EPOCHS)
    return room >= ROOM and "confirm" not in spec.model_fields_set


def _doubt(spec: StudySpec) -> str | None:
    """Why trials are not to be parked; None: nothing speaks against it."""
    if len(spec.directions) > 1:
        return "trials with several directions are not compared before their end"
    if spec.objective_path is None or not (spec.objective_path.module or "").startswith("objectives."):
        return f"nobody knows whether trials of {spec.shown_objective} report and go on from a checkpoint"
    if (spec.full_epochs or 0) < EPOCHS:
        return f"trials have fewer than {EPOCHS} epochs, or nothing says how many"
    if (spec.budget.trials or TRIALS) < TRIALS:
        return f"with fewer than {TRIALS} trials full ones find better settings"
    return None
