"""Prints, logs to what was standard output at import, warns, and shows progress."""

import logging
import sys
import warnings

from tqdm import tqdm

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
log = logging.getLogger(__name__)


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in tqdm(range(3)):
        log.info("step %d of %s", step, x)
    warnings.warn("mind the step", stacklevel=2)
    print("x" * 10_000)
    return x
