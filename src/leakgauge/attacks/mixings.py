"""Which examples mixup may have mixed, and how mixtures are undone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations

import torch
from torch import Tensor
from torch.nn import functional

GRID = (0.9, 0.75, 0.6)
"""Values of lambda tried for each pairing."""
SINGULAR = 0.05
"""How near to 1/2 lambda makes examples that were mixed with each other inseparable."""
ALIKE = 0.01
"""Relative difference of objectives below which one pairing is as good as another."""


@dataclass(frozen=True)
class Mixing:
    """lambda, and the classes of each mixture's larger share and of its smaller one."""

    fraction: float
    major: tuple[int, ...]
    minor: tuple[int, ...]

    @property
    def settled(self) -> bool:
        """Whether the labels tell lambda: some mixture holds two classes."""
        return self.major != self.minor

    def targets(self, classes: int, like: Tensor) -> Tensor:
        """Soft targets (B, K)."""
        one, other = (
            functional.one_hot(torch.tensor(labels), classes).to(like)
            for labels in (self.major, self.minor)
        )
        return self.fraction * one + (1 - self.fraction) * other


def mixings_of(labels: list[int], most: int, generator: torch.Generator) -> Iterator[Mixing]:
    """Every lambda of the grid with every set of pairs of classes, or with `most` of them drawn by chance."""
    if math.factorial(min(len(labels), 20)) <= most:
        orders = [list(order) for order in permutations(range(len(labels)))]
    else:
        orders = [torch.randperm(len(labels), generator=generator).tolist() for _ in range(most)]
    pairs = {
        tuple(sorted((label, labels[j]) for label, j in zip(labels, order, strict=True)))
        for order in orders
    }
    for chosen in sorted(pairs):
        major, minor = zip(*chosen, strict=True)
        for fraction in GRID if major != minor else (1.0,):
            yield Mixing(fraction, major, minor)


def unmixed(mixtures: Tensor, mixing: Mixing, most: int) -> tuple[Tensor, tuple[str, ...]]:
    """The examples (B, C, H, W) within mixtures, by the pairing of least objective; and what is to be said of it."""
    allowed = list(islice(allowed_pairings(mixing), most))
    shares = [mixing.fraction] if mixing.settled else torch.linspace(0.5, 1, 11).tolist()
    values, examples = [], []
    for fraction in shares:
        for order in allowed:
            guess = solved(mixtures, fraction, order)
            values.append(ghosts(guess))
            examples.append((guess, fraction))
    best = min(range(len(values)), key=values.__getitem__)
    guess, fraction = examples[best]
    notes = [f"mixup: lambda {fraction:.3g}, {len(allowed)} pairings with these labels"]
    if not mixing.settled:
        notes.append("mixup: one class in each mixture, so that lambda is chosen by ghosts alone")
    if len(values) > 1 and sorted(values)[1] <= (1 + ALIKE) * values[best]:
        notes.append("mixup: another pairing explains the update as well and leaves as few ghosts")
    if fraction < 0.5 + SINGULAR:
        notes.append("mixup: lambda near 1/2, where two that were mixed with each other are one")
    return guess, tuple(notes)


def ghosts(unit: Tensor) -> float:
    """How much images (B, C, H, W) share their edges, and leave their range: both where each holds a part of others.

    Total variation does not tell them: undoing raises contrast.
    """
    edges = torch.cat([unit.diff(dim=2).flatten(1), unit.diff(dim=3).flatten(1)], dim=1)
    edges = functional.normalize(edges, dim=1)
    shared = (edges @ edges.T).triu(1).square().sum()
    return float(shared + 100 * (unit - unit.clamp(0, 1)).square().mean())


def allowed_pairings(mixing: Mixing) -> Iterator[list[int]]:
    """Each permutation pi with major[pi(i)] = minor[i]."""
    order: list[int] = []

    def extended() -> Iterator[list[int]]:
        if len(order) == len(mixing.minor):
            yield list(order)
            return
        for j, label in enumerate(mixing.major):
            if label == mixing.minor[len(order)] and j not in order:
                order.append(j)
                yield from extended()
                order.pop()

    yield from extended()


def solved(mixtures: Tensor, fraction: float, order: list[int]) -> Tensor:
    """x of  x~ = (share I + (1 - share) P) x,  of least norm where there are several."""
    count = len(order)
    matrix = torch.zeros(count, count, dtype=torch.float64)
    matrix[range(count), range(count)] += fraction
    matrix[range(count), order] += 1 - fraction
    inverse = torch.linalg.pinv(matrix, rtol=SINGULAR).to(mixtures)
    return torch.einsum("ij,j...->i...", inverse, mixtures)
