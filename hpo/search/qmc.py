"""Quasi-random points: the ticket's index says which point of the sequence, so none comes twice.

Optuna's own sampler counts in a study attribute, read and written in two steps, so that several
processes get the same point; and it takes the first trial at random.
"""

from __future__ import annotations

from hpo.search.draws import bits
from hpo.spec import StudySpec
from hpo.spec.sampling import QmcSampler


def qmc_point(spec: StudySpec, ticket: int) -> dict[str, float]:
    """Point number `ticket` of the study's sequence: a share in [0, 1) for every declared parameter.

    One dimension per parameter, in the order of their names; inactive ones keep theirs, so that a
    condition does not shift the others.
    """
    from scipy.stats import qmc  # slow to import, and few studies need it

    options = spec.sampler
    if not isinstance(options, QmcSampler):
        raise TypeError(f"the sampler of study {spec.study} is {options.name}, not qmc")
    names = sorted(spec.space)
    seed = bits(options.seed, 0, "qmc", 32)
    kind = qmc.Sobol if options.qmc_type == "sobol" else qmc.Halton
    engine = kind(len(names), scramble=options.scramble, seed=seed)
    if ticket > 0:
        engine.fast_forward(ticket)
    return dict(zip(names, engine.random(1)[0].tolist(), strict=True))
