"""Random generators by name: one root seed, one child for each name, and no global state."""

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
    """A tree of seeds, from which every random draw of an audit comes.

    The same root and the same name give the same draws in every run. Pass a Seeds to an attack, a
    client or a threat model. Take one child for each part that draws, so that parts do not
    influence each other.

    Args:
        root: The root seed, a whole number. The default is 0.
        path: The place in the tree, as names joined by "/". The default, empty, is the root.

    Example:
        >>> import leakgauge as lg
        >>> seeds = lg.Seeds(0).child("attack")
        >>> seeds.path
        'attack'
        >>> seeds.generator("start").initial_seed() == lg.Seeds(0, "attack").integer("start")
        True
    """

    root: int = 0
    path: str = ""

    def child(self, name: str) -> Seeds:
        """Return the subtree called `name`."""
        return Seeds(self.root, f"{self.path}/{name}" if self.path else name)

    def integer(self, name: str) -> int:
        """Return a seed in [0, 2**63) that depends on the root seed, the path and `name`."""
        key = f"{self.root}:{self.child(name).path}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1

    def generator(self, name: str) -> torch.Generator:
        """Return a new generator on the CPU.

        Draw the numbers on the CPU, then move them to the device. All devices then get the same
        numbers.
        """
        return torch.Generator().manual_seed(self.integer(name))

    @contextmanager
    def isolated(self, name: str) -> Iterator[None]:
        """Seed torch's global CPU generator by `name` inside the block, and restore it afterwards.

        Use it for a user's code that draws from this generator alone, such as a dropout layer or a
        loss.
        """
        state = torch.random.get_rng_state()
        torch.default_generator.manual_seed(self.integer(name))
        try:
            yield
        finally:
            torch.random.set_rng_state(state)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Seed every global CPU generator by `name` inside the block, and restore all afterwards.

        Use it for a user's own attack, which may draw from torch, NumPy or Python.
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
"""Source of NumPy's global functions inside `isolate_draws`.

Exchanging the generator is faster than saving and restoring its state.
"""


@contextmanager
def isolate_draws() -> Iterator[None]:
    """Let the code inside the block draw from global generators without an effect on draws outside.

    These are the generators of torch, NumPy and Python on the CPU. It costs about 30 microseconds.
    """
    numbers, python = get_bit_generator(), random.getstate()
    set_bit_generator(SPARE)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        set_bit_generator(numbers)
        random.setstate(python)
