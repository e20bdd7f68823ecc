"""Random numbers of a trial: each purpose and epoch has its own seed, drawn from the trial's seed.

Seeding anew at every epoch means that nothing random has to be carried from one epoch to the next: the
batches, dropout masks and augmentations of epoch 7 are the same whether or not the run was interrupted in
between.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive(seed: int, *words: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on `seed` and `words` alone, on every platform."""
    text = "/".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators that code reaches without asking: torch (every device), numpy and random."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # all there is, and 100 us less
    np.random.seed(seed % 2**32)  # the global state is what a user's data set may read
    random.seed(seed)


@contextmanager
def aside(seed: int) -> Iterator[None]:
    """Seed the CPU's generators by `seed`; torch's goes on afterwards as if nothing had been drawn."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def lent(generator: torch.Generator) -> Iterator[None]:
    """Let torch's global generator of that device go on where `generator` stands, and the latter after it."""
    device = generator.device
    cuda = device.type == "cuda"
    before = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()
    put = (lambda state: torch.cuda.set_rng_state(state, device)) if cuda else torch.set_rng_state
    put(generator.get_state())
    try:
        yield
        generator.set_state(torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state())
    finally:
        put(before)


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return a digest of the tensors' bits, in hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(bits.numpy().tobytes())
    return found.hexdigest()


def states() -> tuple[Any, Any, Any]:
    """The states of torch's, numpy's and Python's global generators on the CPU, to be compared."""
    _, numbers, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (np.asarray(numbers).tolist(), rest), random.getstate()


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` that starts from `seed`."""
    return torch.Generator(device=device).manual_seed(seed)
