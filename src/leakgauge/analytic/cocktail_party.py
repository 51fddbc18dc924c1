"""Unmixing the inputs of a linear layer from its gradient, by independent components and silent outputs.

The gradient `[dW, db] = sum_j delta_j [h_j, 1]'` is a mixture of the inputs h_j (F,) of the batch.
Independent components give every h_j approximately, and the bias's column gives its sign and scale.
If the layer feeds a ReLU, the outputs that h_j leaves inactive then give delta_j exactly. All
delta_j together give all h_j.

Examples that are found leave a smaller mixture for the next round. The known model checks each
example: h_j must cause delta_j.

References:
    Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee. Cocktail Party Attack: Breaking
    Aggregation-Based Privacy in Federated Learning Using Independent Component Analysis. ICML 2023.
    arXiv:2209.05578. The step with silent outputs is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.explanation import explain
from leakgauge.analytic.independence import whitening
from leakgauge.analytic.mixtures import Mixture
from leakgauge.analytic.silence import (
    credit_directions,
    independent_directions,
    sample_directions,
    vanishing_direction,
)
from leakgauge.analytic.tail import Tail

PROVEN = 1e-2
"""Largest relative error of an example's delta, over all outputs, at which the example is confirmed."""
FEW = 10
"""Largest batch for which random sets of outputs are drawn. In larger batches they rarely find a missing example."""
SINGULAR = 1e-6
"""Least singular value of unit directions that count as linearly independent."""
PATIENCE = 2
"""Rounds without a new example after which the search ends."""

Rotate = Callable[[Tensor, torch.Generator], Tensor]
"""From white signals (n, N) and a generator to their unmixing matrix (n, n)."""


@dataclass(frozen=True)
class Unmixer:
    """The parts of an unmixing.

    Args:
        tail: The known model from the layer on.
        views: Linear map from signals (n, F) to signals (n, N) that are independent of each other.
        rotate: Function that unmixes white signals.
        plausible: Function from inputs (N, F) of the layer to the nearest inputs that an example
            can cause.
    """

    tail: Tail
    views: Callable[[Tensor], Tensor]
    rotate: Rotate
    plausible: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sources:
    """The unmixed examples.

    Args:
        features: (n, F), inputs of the layer.
        labels: (n,).
        error: (n,), relative error of the delta that each example would cause.
        left_over: Fraction of the gradient's norm that the examples do not explain.
        exact: Number of examples whose delta follows exactly from silent outputs.
    """

    features: Tensor
    labels: Tensor
    error: Tensor
    left_over: float
    exact: int

    @property
    def proven(self) -> Tensor:
        """Which examples (n,) the known model confirms."""
        return self.error <= PROVEN


def unmix(
    mixture: Mixture,
    unmixer: Unmixer,
    generator: torch.Generator,
    *,
    rounds: int,
    tell: Callable[[Sources], None] | None = None,
) -> Sources:
    """Return the examples that explain the gradient best.

    Args:
        mixture: The gradient as a mixture.
        unmixer: The parts of the unmixing.
        generator: Source of the draws.
        rounds: Largest number of rounds of silent outputs. With 0, only independent components are
            used.
        tell: Receives the best examples so far, after the components and after each round.
    """
    count = len(mixture.strength)
    known = torch.zeros(count, 0, dtype=torch.float64)
    estimates, starts = components(mixture, unmixer, known, generator)
    best = explain_estimates(mixture, unmixer, estimates, 0)
    if tell is not None:
        tell(best)
    confirmed, idle = 0, 0
    for _ in range(rounds):
        depth = unmixer.tail.depth(unmixer.plausible(inputs_of(estimates[known.shape[1] :])))
        found = [vanishing_direction(mixture, s, d) for s, d in zip(starts.T, depth, strict=True)]
        silents = [one for one in found if one is not None]
        if count <= FEW:
            outputs = unmixer.tail.responses(mixture.signals)
            silents = credit_directions(
                mixture, silents + sample_directions(mixture, generator), outputs
            )
        known = independent_directions(silents, known)
        whole = known.shape[1] == count
        if whole:
            known, sources = repair(mixture, unmixer, known)
        else:
            estimates, starts = components(mixture, unmixer, known, generator)
            sources = explain_estimates(mixture, unmixer, estimates, known.shape[1])
        best = min(best, sources, key=lambda one: one.left_over)
        idle = 0 if known.shape[1] > confirmed else idle + 1
        if (whole and bool(sources.proven.all())) or idle == PATIENCE:
            break
        if whole:
            # A wrong direction can exclude a right one, so only confirmed directions are kept.
            known = known[:, sources.proven]
            estimates, starts = components(mixture, unmixer, known, generator)
        confirmed = max(confirmed, known.shape[1])
        if tell is not None:
            tell(best)
    return best


def repair(mixture: Mixture, unmixer: Unmixer, known: Tensor) -> tuple[Tensor, Sources]:
    """Return directions (n, n), one for each example, with wrong ones replaced, and the sources.

    A wrong direction falsifies the inputs of all examples except its own, whose input follows from
    the other directions. For a right input, the model gives the delta, and thus the right
    direction. Replacement ends when it no longer explains more of the gradient.
    """
    sources = separate(mixture, unmixer, known)
    while not bool(sources.proven.all()):
        right, causing = caused_directions(mixture, unmixer.tail, sources.features)
        better = torch.where(causing, right, known)
        if float(torch.linalg.svdvals(better)[-1]) < SINGULAR:
            break
        improved = separate(mixture, unmixer, better)
        if improved.left_over >= sources.left_over:
            break
        known, sources = better, improved
    return known, sources


def caused_directions(mixture: Mixture, tail: Tail, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions (n, N) that inputs (N, F) cause, and a mask (N,) of right inputs.

    A direction stands for the delta that the input causes. An input is right if its delta, for some
    label, is a combination of the mixture's columns.
    """

    def outside(caused: Tensor) -> Tensor:
        """Return the relative part of each delta (N, O) outside the span of the mixture's columns."""
        apart: Tensor = (caused.T - mixture.left @ (mixture.left.T @ caused.T)).norm(dim=0)
        return apart / sizes(caused)

    def sizes(caused: Tensor) -> Tensor:
        size: Tensor = caused.T.norm(dim=0)
        return size.clamp_min(torch.finfo(torch.float64).tiny)

    best = explain(partial(tail.deltas, features), outside, range(tail.contribution.classes))
    directions: Tensor = mixture.left.T @ best.caused.T / sizes(best.caused)
    return directions, best.misfit <= PROVEN


def separate(mixture: Mixture, unmixer: Unmixer, known: Tensor) -> Sources:
    """Return the examples that follow from `known` (n, n), which holds one direction for each example."""
    estimates = torch.linalg.solve(known, mixture.signals)
    return explain_estimates(mixture, unmixer, estimates, known.shape[1])


def components(
    mixture: Mixture, unmixer: Unmixer, known: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return estimates (n, F + 1) of all examples, up to scale, and directions of unknown ones.

    The estimates of the known examples come first. The part of the signals that is orthogonal to
    the known directions mixes only the unknown examples. What correlates with the unknown examples
    is subtracted from the estimates of the known ones.

    Args:
        mixture: The gradient as a mixture.
        unmixer: The parts of the unmixing.
        known: (n, k), directions of the known examples.
        generator: Source of the draws.

    Returns:
        The estimates, and the directions (n, n - k) of the unknown examples.
    """
    k = known.shape[1]
    rest = torch.linalg.qr(known, mode="complete")[0][:, k:]
    signals = rest.T @ mixture.signals
    views = unmixer.views(signals[:, :-1])
    white = whitening(views)
    rows = unmixer.rotate(white @ views, generator) @ white
    others = rows @ signals
    starts = torch.linalg.pinv(rows @ rest.T)
    if not k:
        return others, starts
    held = torch.linalg.pinv(known) @ mixture.signals
    seen, theirs = unmixer.views(held[:, :-1]), rows @ views
    shared = torch.linalg.lstsq(theirs.T, seen.T, driver="gelsd").solution.T
    return torch.cat([held - shared @ others, others]), starts


def inputs_of(estimates: Tensor) -> Tensor:
    """Return h (n, F) of rows (n, F + 1) that are multiples of [h, 1]. The last entry gives sign and scale."""
    tiny = torch.finfo(torch.float64).tiny
    scale = torch.where(estimates[:, -1:].abs() > tiny, estimates[:, -1:], tiny)
    return estimates[:, :-1] / scale


def explain_estimates(mixture: Mixture, unmixer: Unmixer, estimates: Tensor, exact: int) -> Sources:
    """Return the sources: each estimate with the label that explains it best, and the unexplained fraction."""
    features = unmixer.plausible(inputs_of(estimates))
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    joined = torch.cat([features, ones], dim=1)
    coefficients = torch.linalg.lstsq(
        joined.T, mixture.signals.T, driver="gelsd"
    ).solution  # (n, n)
    deltas = coefficients @ mixture.left.T
    best = unmixer.tail.explain(features, deltas)
    seen = mixture.left @ mixture.signals
    left_over = float((seen - best.caused.T @ joined).norm() / seen.norm())
    return Sources(features, best.labels, best.misfit, left_over, exact)


def complete(sources: Sources, batch: int, blank: Tensor) -> Sources:
    """Return the sources of the whole batch.

    An example that was not unmixed gets the features `blank` (F,), the label -1 and an infinite
    error.
    """
    missing = batch - len(sources.features)
    return replace(
        sources,
        features=torch.cat([sources.features, blank.expand(missing, -1)]),
        labels=torch.cat([sources.labels, torch.full((missing,), -1)]),
        error=torch.cat([sources.error, torch.full((missing,), torch.inf, dtype=torch.float64)]),
    )
