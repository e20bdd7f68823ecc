"""How sure a result is, in plain words."""

from __future__ import annotations

from hpo.report import text
from storage.history.records import Confirmation, Setting


def sentences(found: Confirmation) -> list[str]:
    """Which setting to use, how sure that is, and by how much the search had overstated it."""
    won = None if found.winner is None else found.of(found.winner)
    if won is None or won.estimate is None:
        return ["Its best settings are trained again with fresh seeds; none has come to an end yet."]
    if not found.done:
        return [
            f"Its best settings are being trained again with fresh seeds: trial {won.trial} leads by now, "
            f"with a mean of {text.number(won.estimate.mean)}."
        ]
    said = (_value(won), _ties(found, won), _shrinkage(won), _first(found, won))
    return [sentence for sentence in said if sentence]


def _value(won: Setting) -> str:
    known = won.estimate
    assert known is not None
    said = (
        f"Trained again with {text.count(known.trainings, 'fresh seed')}, the setting of trial {won.trial} "
        f"comes to {text.number(known.mean)} on average"
    )
    if known.low is not None:
        said += (
            f"; with as many other seeds it would lie between {text.number(known.low)} and "
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


def _shrinkage(won: Setting) -> str:
    if won.shrinkage is None or won.reported is None:
        return ""
    more, less = text.number(won.reported), text.number(abs(won.shrinkage), 2)
    if won.shrinkage <= 0:
        return f"The search had not overstated it ({more})."
    return f"The search had reported {more}, which was {less} too good, as the luckiest of many is."


def _first(found: Confirmation, won: Setting) -> str:
    if found.first_would_do is None or won.is_first:
        return "" if found.first_would_do is None else "It is the study's first setting."
    first = next(one for one in found.settings if one.is_first)
    mean = "" if first.estimate is None else f" ({text.number(first.estimate.mean)})"
    would = "would have done as well" if found.first_would_do else "is worse"
    return f"The first setting, of trial {first.trial}, {would}{mean}."
