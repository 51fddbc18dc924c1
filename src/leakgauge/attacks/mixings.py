"""Candidate mixings of mixup, and the recovery of examples from their mixtures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations

import torch
from torch import Tensor
from torch.nn import functional

GRID = (0.9, 0.75, 0.6)
"""Values of lambda that are tried for each set of pairs of classes."""
SINGULAR = 0.05
"""Distance of lambda from 1/2 below which two examples that were mixed with each other cannot be separated."""
TIED = 0.01
"""Relative difference of objectives below which two pairings count as equal."""


@dataclass(frozen=True)
class Mixing:
    """A candidate mixing of a batch of B examples.

    Args:
        fraction: Lambda, the weight of the first example of each mixture, from 1/2 to 1.
        major: The class of each mixture's example of weight lambda, B of them.
        minor: The class of each mixture's example of weight 1 - lambda, B of them.
    """

    fraction: float
    major: tuple[int, ...]
    minor: tuple[int, ...]

    @property
    def settled(self) -> bool:
        """Whether some mixture holds two classes, so that lambda changes the targets."""
        return self.major != self.minor

    def targets(self, classes: int, like: Tensor) -> Tensor:
        """Return the soft targets (B, K) of the mixtures.

        Args:
            classes: Number of classes K.
            like: A tensor of the dtype and device to use.
        """
        one, other = (
            functional.one_hot(torch.tensor(labels), classes).to(like)
            for labels in (self.major, self.minor)
        )
        return self.fraction * one + (1 - self.fraction) * other


def candidate_mixings(labels: list[int], most: int, generator: torch.Generator) -> Iterator[Mixing]:
    """Yield each value of lambda in the grid with each set of pairs of classes.

    Args:
        labels: The class of each example.
        most: Largest number of permutations. If there are more, this number is drawn at random.
        generator: Draws the permutations.
    """
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


def unmix(mixtures: Tensor, mixing: Mixing, most: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the examples (B, C, H, W) within mixtures, and notes for the record.

    Args:
        mixtures: Images (B, C, H, W) in unit coordinates.
        mixing: Lambda and the classes of the mixtures.
        most: Largest number of pairings. The pairing with the fewest ghosts (`measure_ghosts`) is chosen.
    """
    allowed = list(islice(allowed_pairings(mixing), most))
    fractions = [mixing.fraction] if mixing.settled else torch.linspace(0.5, 1, 11).tolist()
    values, examples = [], []
    for fraction in fractions:
        for order in allowed:
            unit = solve_mixtures(mixtures, fraction, order)
            values.append(measure_ghosts(unit))
            examples.append((unit, fraction))
    best = min(range(len(values)), key=values.__getitem__)
    unit, fraction = examples[best]
    notes = [
        f"mixup: lambda {fraction:.3g}, {len(allowed)} pairings are possible with these labels"
    ]
    if not mixing.settled:
        notes.append(
            "mixup: one class in each mixture, so only the number of ghosts in the images chooses lambda"
        )
    if len(values) > 1 and sorted(values)[1] <= (1 + TIED) * values[best]:
        notes.append(
            "mixup: another pairing explains the update equally well, and leaves as few ghosts in the images"
        )
    if fraction < 0.5 + SINGULAR:
        notes.append(
            "mixup: lambda is near 1/2, so two examples that are mixed with each other cannot be separated"
        )
    return unit, tuple(notes)


def measure_ghosts(unit: Tensor) -> float:
    """Return how much images (B, C, H, W) show each other as ghosts, 0 if they do not.

    An image that holds a part of another shares its edges, and its values leave [0, 1]. The measure
    adds the squared correlations of edges between images and 100 times the mean squared distance to
    [0, 1]. Total variation is no measure of ghosts, since undoing a mixture raises the contrast.
    """
    edges = torch.cat([unit.diff(dim=2).flatten(1), unit.diff(dim=3).flatten(1)], dim=1)
    edges = functional.normalize(edges, dim=1)
    shared = (edges @ edges.T).triu(1).square().sum()
    return float(shared + 100 * (unit - unit.clamp(0, 1)).square().mean())


def allowed_pairings(mixing: Mixing) -> Iterator[list[int]]:
    """Yield each permutation pi with `major[pi(i)] = minor[i]` for all i."""
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


def solve_mixtures(mixtures: Tensor, fraction: float, order: list[int]) -> Tensor:
    """Return the examples x (B, C, H, W) within mixtures m, for m = (f I + (1 - f) P) x.

    If several x solve this equation, the one of least norm is returned.

    Args:
        mixtures: The mixtures m, (B, C, H, W).
        fraction: The weight f.
        order: The permutation P, as the index of each mixture's second example.
    """
    count = len(order)
    matrix = torch.zeros(count, count, dtype=torch.float64)
    matrix[range(count), range(count)] += fraction
    matrix[range(count), order] += 1 - fraction
    inverse = torch.linalg.pinv(matrix, rtol=SINGULAR).to(mixtures)
    return torch.einsum("ij,j...->i...", inverse, mixtures)
