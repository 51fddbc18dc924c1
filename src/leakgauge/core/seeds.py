"""Named random generators: one root seed, one child for each name, nothing global."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator


@dataclass(frozen=True)
class Seeds:
    """A tree of seeds: `Seeds(0).child("attack").generator("trial/3")` is the same on every run."""

    root: int = 0
    path: str = ""

    def child(self, name: str) -> Seeds:
        """The subtree called `name`."""
        return Seeds(self.root, f"{self.path}/{name}" if self.path else name)

    def integer(self, name: str) -> int:
        """A seed in [0, 2**63) that depends on the root seed and on the whole path."""
        key = f"{self.root}:{self.child(name).path}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1

    def generator(self, name: str) -> torch.Generator:
        """A fresh CPU generator: draws are made there, then moved, so that devices agree."""
        return torch.Generator().manual_seed(self.integer(name))

    @contextmanager
    def isolated(self, name: str) -> Iterator[None]:
        """The global CPU generator, seeded by `name` inside and as it was afterwards.

        For code that is not ours and knows no other generator: a user's dropout layer, or loss.
        """
        state = torch.random.get_rng_state()
        torch.default_generator.manual_seed(self.integer(name))
        try:
            yield
        finally:
            torch.random.set_rng_state(state)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Seed every global generator of the CPU by `name` inside, and put them all back.

        For a user's own attack, which may draw from torch's, NumPy's or Python's.
        """
        seed, numbers, python = self.integer(name), np.random.get_state(), random.getstate()
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            with self.isolated(name):
                yield
        finally:
            np.random.set_state(numbers)
            random.setstate(python)


SPARE = np.random.MT19937()
"""What NumPy's global functions draw from in code that is apart: to exchange generators costs less than to save one."""


@contextmanager
def apart() -> Iterator[None]:
    """Let the code inside draw from global generators of the CPU: torch's, NumPy's and Python's.

    Code outside draws as it would without. It costs about 30 microseconds.
    """
    numbers, python = get_bit_generator(), random.getstate()
    set_bit_generator(SPARE)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        set_bit_generator(numbers)
        random.setstate(python)
