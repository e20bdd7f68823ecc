"""How sure a result is, in plain words."""

from __future__ import annotations

from hpo import text
from storage.history.records import Confirmation, Setting


def sentences(found: Confirmation, best: int | None, name: str = "") -> list[str]:
    """Which setting to use, what it comes to and how sure that is, and what the search had made of it.

    Args:
        found: what is known.
        best: the trial that has the best value of all.
        name: what the values are.
    """
    won = None if found.winner is None else found.of(found.winner)
    if won is None or won.estimate is None:
        return ["Its best settings are trained again with fresh seeds; none has come to an end yet."]
    if not found.done:
        return [
            f"Its best settings are being trained again with fresh seeds: trial {won.trial} leads by now, "
            f"with a mean of {text.number(won.estimate.mean)}."
        ]
    late = best is not None and found.of(best) is None
    newer = f"Trial {best} came later and is better, but nobody has confirmed it yet." if late else ""
    said = (newer, _value(won, name), _ties(found, won), _searched(found, won, best), _first(found, won))
    return [sentence for sentence in said if sentence]


def _value(won: Setting, name: str) -> str:
    known = won.estimate
    assert known is not None
    said = (
        f"Trained again with {text.counted(known.trainings, 'fresh seed')}, the setting of trial {won.trial} "
        f"comes to {f'{name} ' if name else ''}{text.number(known.mean)} on average"
    )
    if known.low is not None:
        said += (
            f"; with as many other seeds that would lie between {text.number(known.low)} and "
            f"{text.number(known.high)} nine times in ten"
        )
    return said + "."


def _ties(found: Confirmation, won: Setting) -> str:
    assert won.estimate is not None
    chance = f"{100 * won.estimate.probability:.0f} %"
    others = [one for one in found.settings if one.trial != won.trial]
    if not others:
        return ""
    said = f"It is the best of the {len(found.settings)} with a probability of {chance}"
    if not found.tied:
        return f"{said}, and none is tied with it."
    names = text.listed([str(one) for one in found.tied])
    return f"{said}: {'trial' if len(found.tied) == 1 else 'trials'} {names} may be as good."


def _searched(found: Confirmation, won: Setting, best: int | None) -> str:
    """What the search had taken for the best, and what that was worth."""
    top = won if best is None else found.of(best) or won
    if top.shrinkage is None or top.reported is None or top.estimate is None:
        return ""
    more, less = text.number(top.reported), text.number(abs(top.shrinkage), 2)
    worth = (
        "had not overstated that"
        if top.shrinkage <= 0
        else f"was {less} too good, as the luckiest of many is"
    )
    if top is won:
        return f"The search, which had reported {more}, {worth}."
    return (
        f"The search had taken trial {top.trial} for the best, with {more}; trained again it comes to "
        f"{text.number(top.estimate.mean)}."
    )


def _first(found: Confirmation, won: Setting) -> str:
    if found.first_would_do is None or won.is_first:
        return "" if found.first_would_do is None else "It is the study's first setting."
    first = next(one for one in found.settings if one.is_first)
    mean = "" if first.estimate is None else f" ({text.number(first.estimate.mean)})"
    would = "would have done as well" if found.first_would_do else "is worse"
    return f"The first setting, of trial {first.trial}, {would}{mean}."
