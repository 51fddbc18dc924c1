r"""A rough value of a node from known activations behind it, by a linear map that is learned from made images.

The adversary knows the layers in between. Made images show both values, and ridge regression learns to
tell one from the other. Held-out images choose the size of its prior.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.made_images import made_images
from leakgauge.analytic.convolutions.network import Network
from leakgauge.core.pulse import Beat, quiet

COUNT, CHUNK = 2000, 100
"""Number of made images, and of those whose values are computed at once."""
FEWEST = 200
"""The least number of images, where memory limits their number."""
VALUES = 2**25
"""Largest number of values of all images together."""
HELD = 0.1
"""Fraction of the images that choose the size of the prior."""
PRIORS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Sizes of the prior, in units of the largest eigenvalue of the images' Gram matrix."""
FAINT = 1e-3
"""Least deviation of an activation by which it is divided, in units of the median."""


@dataclass(frozen=True, eq=False)
class LinearStart:
    """Values of nodes, told from later ones.

    Args:
        network: The network.
        enter: Map from unit coordinates to the network's input.
        shape: Shape `(C, *size)` of one example.
        generator: Source of the images.
        beat: Called for each part of the images.
    """

    network: Network
    enter: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    generator: torch.Generator
    beat: Beat = quiet

    def value(self, sought: fx.Node, given: fx.Node, known: Tensor) -> Tensor | None:
        """Return rough values `(B, ...)` of a node, or None if it has too many values.

        Args:
            sought: The node.
            given: A node behind it.
            known: The values `(B, ...)` of the node behind it.
        """
        count = images_for(sought.meta["val"][0].numel())
        if not count:
            return None
        return predict(known.flatten(1), self._examples(sought, given, count))

    def _examples(
        self, sought: fx.Node, given: fx.Node, count: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the values of both nodes for made images."""
        network = self.network
        state = {k: t.float() if t.is_floating_point() else t for k, t in network.state.items()}
        while count > 0:
            self.beat()
            images = made_images(min(CHUNK, count), self.shape, generator=self.generator)
            with torch.no_grad():
                found = network.evaluate(
                    [given, sought], {network.entry: self.enter(images)}, state
                )
            yield found[given].flatten(1), found[sought]
            count -= CHUNK


def images_for(values: int) -> int:
    """Return how many images learn to tell this number of values, or 0 if there are too many values."""
    count = min(COUNT, VALUES // values)
    return count if count >= FEWEST else 0


def predict(known: Tensor, examples: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the sought values `(B, ...)` that follow from known ones, by ridge regression.

    Args:
        known: Known values `(B, K)`.
        examples: Known `(n, K)` and sought values `(n, ...)` of other examples, in parts of any size.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.linear_start import predict
        >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> found = predict(x[:2], [(x[2:], 3 * x[2:, :1])])
        >>> bool((found - 3 * x[:2, :1]).abs().max() < 1e-3)
        True
    """
    given, sought = (torch.cat(parts).double() for parts in zip(*examples, strict=True))
    mean, size = given.mean(0), given.std(0)
    size = size.clamp_min(FAINT * float(size[size > 0].median() if bool((size > 0).any()) else 1))
    given, aim = (given - mean) / size, (known.to(given) - mean) / size
    middle = sought.mean(0)
    sought = sought - middle
    first = len(given) - max(1, round(HELD * len(given)))
    eigenvalues, vectors = torch.linalg.eigh(given[:first] @ given[:first].T)
    targets = sought[:first].flatten(1)
    best, least = targets.new_zeros(()), torch.inf
    within = given[:first].T @ vectors
    turned = vectors.T @ targets
    for prior in PRIORS:
        weights = within / (eigenvalues.clamp_min(0) + prior * eigenvalues[-1])
        gap = (given[first:] @ weights) @ turned - sought[first:].flatten(1)
        error = float(gap.square().sum())
        if error < least:
            best, least = (aim @ weights) @ turned, error
    return middle + best.reshape(-1, *middle.shape)
