"""What failed: trials by their error, and the setting that sets them apart from those that went well."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from hpo import text
from storage.history.records import ENDED, StudyHistory, TrialRecord

MIN_FAILED = 5  # and as many that went well: fewer tell nothing
LATEST = 20  # ended trials that are looked at for a storm
STORM = 0.5  # share of them that failed
APART = 0.5  # share of failed minus share of good trials with a setting, from which on it is told


@dataclass(frozen=True)
class Failure:
    """Trials that failed alike."""

    error: str  # the newest one's
    numbers: tuple[int, ...]  # newest first
    where: str  # the filter that shows them


def failures(history: StudyHistory) -> tuple[Failure, ...]:
    """Failed and diverged trials by their error, numbers in it left aside; the most frequent first."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in reversed(history.trials):
        if trial.state in ("failed", "diverged"):
            groups.setdefault(re.sub(r"[0-9.]+", "#", trial.error or trial.state), []).append(trial)
    found = sorted(groups.values(), key=len, reverse=True)
    return tuple(
        Failure(group[0].error or group[0].state, tuple(t.number for t in group), _filter(group[0]))
        for group in found
    )


def _filter(trial: TrialRecord) -> str:
    said = max(re.split(r"[0-9.\\'\"]+", trial.error or ""), key=len).strip()[:80]
    return f"state={trial.state}" + (f" {shlex.quote('error~' + said)}" if said else "")


def storm(history: StudyHistory) -> str:
    """A sentence where most of the latest trials failed, with the setting they share; else ""."""
    ended = [trial for trial in history.trials if trial.state in ENDED][-LATEST:]
    bad = [trial for trial in ended if trial.state in ("failed", "diverged")]
    if len(bad) < MIN_FAILED or len(bad) < STORM * len(ended):
        return ""
    worst = failures(history)[0].error
    which = f"{len(bad)} of the latest"
    if len(bad) == len(ended):
        which = "All" if len(ended) < LATEST else "All of the latest"
    told = f"{which} {len(ended)} trials failed, most with: {text.label(worst, 120)}."
    return text.joined(told, apart(history))


def apart(history: StudyHistory) -> str:
    """The setting that most failed trials have and most good ones do not, as a sentence; "" without one."""
    bad = [trial.params for trial in history.trials if trial.state in ("failed", "diverged")]
    good = [trial.params for trial in history.trials if trial.state in ("complete", "pruned")]
    if min(len(bad), len(good)) < MIN_FAILED:
        return ""
    best, told = APART, ""
    for name in dict.fromkeys(name for params in bad for name in params):
        for sign, value in _settings([params[name] for params in bad if name in params]):
            n_bad, n_good = (
                sum(_has(params, name, sign, value) for params in group) for group in (bad, good)
            )
            if n_bad / len(bad) - n_good / len(good) > best:
                best = n_bad / len(bad) - n_good / len(good)
                told = f"{n_bad} of {len(bad)} failed ones have {name} {sign} {text.value(value)}"
                told += f", and {n_good} of {len(good)} that went well."
    return told


def _settings(values: Sequence[object]) -> list[tuple[str, object]]:
    """What failed values may have in common: one choice, or lying beyond some of them."""
    numbers = sorted(v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    if len(numbers) < len(values):
        return [("=", value) for value in dict.fromkeys(map(str, values))]
    steps = {numbers[len(numbers) * tenth // 10] for tenth in range(10)}
    return [(sign, value) for value in sorted({*steps, numbers[-1]}) for sign in ("≥", "≤")]


def _has(params: object, name: str, sign: str, value: object) -> bool:
    found = params.get(name) if isinstance(params, dict) else None
    if found is None:
        return False
    if sign == "=" or not isinstance(found, int | float) or not isinstance(value, int | float):
        return str(found) == str(value)
    return found >= value if sign == "≥" else found <= value
