"""Random numbers of a trial: each purpose and epoch has its own seed, drawn from the trial's seed.

Seeding anew at every epoch means that nothing random has to be carried from one epoch to the next: the
batches, dropout masks and augmentations of epoch 7 are the same whether or not the run was interrupted in
between.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(seed: int, *words: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on `seed` and `words` alone, on every platform."""
    text = "/".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators that code reaches without asking: torch (every device), numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # the global state is what a user's data set may read
    random.seed(seed)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` that starts from `seed`."""
    return torch.Generator(device=device).manual_seed(seed)
