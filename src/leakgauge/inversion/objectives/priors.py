"""Priors: what an adversary expects of examples before it sees the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from leakgauge.core import Observation, image_grid
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares
from leakgauge.inversion.objectives.variation import FLOOR, OPPONENT, differences, opponent


@dataclass(frozen=True)
class Smoothness(LeastSquares):
    r"""Prior: images are smooth. The mean squared Laplacian.

    .. math::

        \frac{1}{n} \| \Delta x \|^2

    Here :math:`\Delta x` is the discrete Laplacian of the image (Tikhonov regularization of second
    order), and :math:`n` the number of values. Beyond the border, border pixels are repeated. The
    term is quadratic, so a second-order descent represents it exactly.

    It needs images (B, C, H, W). Three channels are taken to be red, green and blue. Their sum has
    weight 1, and their differences, red - blue and red - 2 green + blue, have the weights `chroma`.
    Photographs vary much less in color than in brightness.

    Args:
        chroma: Weights of the two color differences relative to brightness, at least 0. The
            defaults are the ratios of energy in photographs, which `benchmarks/color.py` measures.

    References:
        Ruderman, Cronin, Chiao. Statistics of Cone Responses to Natural Images: Implications for
        Visual Coding. Journal of the Optical Society of America A 15, 1998.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, Smoothness
        >>> point = torch.zeros(1, 1, 5, 5)
        >>> point[..., 2, 2] = 1.0
        >>> Smoothness()(Candidate(point, torch.zeros(1), {}, {}))
        tensor(0.8000)
    """

    local: ClassVar[bool] = True
    chroma: tuple[float, float] = (16.0, 50.0)

    def inapplicable(self, observation: Observation) -> str | None:
        if image_grid(observation.domain) is None:
            return f"smoothness is a prior on images, not on a {observation.domain.kind}: remove the term"
        return None

    def residuals(self, candidate: Candidate) -> Tensor:
        vertical, horizontal = differences(self._weighted(candidate.unit))
        # The Laplacian is the difference of neighboring differences. Across a border the difference is 0.
        laplacian = pad(vertical, (0, 0, 0, 1)) - pad(vertical, (0, 0, 1, 0))
        laplacian = laplacian + pad(horizontal, (0, 1)) - pad(horizontal, (1, 0))
        return laplacian.flatten() / math.sqrt(laplacian.numel())

    def _weighted(self, unit: Tensor) -> Tensor:
        """Return opponent colors, each times the root of its weight, or the images if they lack three channels."""
        if unit.shape[-3] != len(OPPONENT):
            return unit
        return opponent(unit, unit.new_tensor((1.0, *self.chroma)).sqrt())


@dataclass(frozen=True)
class Energy(LeastSquares):
    r"""Prior: values are near the middle of their range. The l2 prior on centered examples.

    .. math::

        \frac{1}{n} \left\| x - \tfrac{1}{2} \right\|^2

    Here :math:`x` are the examples in unit coordinates, and :math:`n` the number of their values.
    It works on any domain.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, Energy
        >>> Energy()(Candidate(torch.ones(2, 3), torch.zeros(2), {}, {}))
        tensor(0.2500)
    """

    local: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        return (candidate.unit - 0.5).flatten() / math.sqrt(candidate.unit.numel())


@dataclass(frozen=True)
class InRange(LeastSquares):
    r"""Prior: values are in the public range [0, 1] of the domain.

    .. math::

        \frac{1}{n} \left\| x - \operatorname{clip}(x, 0, 1) \right\|^2

    Here :math:`x` are the examples in unit coordinates, and :math:`n` the number of their values.
    It works on any domain. Use it if the parametrization cannot clip values itself, as
    `Direct(box=True)` does.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, InRange
        >>> InRange()(Candidate(torch.tensor([[0.5, 1.5]]), torch.zeros(1), {}, {}))
        tensor(0.1250)
    """

    local: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        unit = candidate.unit
        return (unit - unit.clamp(0, 1)).flatten() / math.sqrt(unit.numel())


@dataclass(frozen=True)
class Orthogonality(LeastSquares):
    r"""Prior: examples of one batch are not correlated. The mean squared correlation of two examples.

    .. math::

        \operatorname{mean}_{i < j} \left( \frac{\langle \bar{x}_i, \bar{x}_j \rangle}
        {\| \bar{x}_i \| \, \| \bar{x}_j \|} \right)^2

    Here :math:`\bar{x}_i` is example :math:`i` minus its own mean. The value is 0 for a batch of
    one. It works on examples (B, \*shape) of any domain.

    The paper asks that the products of two examples vanish pixel by pixel. The correlation is ours:
    darker or flatter examples do not lower it.

    References:
        Qian, Nassar, Hansen. Minimal Conditions Analysis of Gradient-based Reconstruction in
        Federated Learning. 2020. Its latest version is called Minimal Model Structure Analysis for
        Input Reconstruction in Federated Learning. arXiv:2010.15718.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, Orthogonality
        >>> twice = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        >>> Orthogonality()(Candidate(twice, torch.zeros(2), {}, {}))
        tensor(1.)
    """

    collective: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        rows = candidate.unit.flatten(1)
        centered = rows - rows.mean(1, keepdim=True)
        # The floor makes a flat example uncorrelated with others, with a finite slope.
        square = centered.square().sum(1).clamp_min(FLOOR**2)
        one, other = torch.triu_indices(len(rows), len(rows), 1)
        inner = (centered[one] * centered[other]).sum(1)
        return inner / (square[one] * square[other]).sqrt() / math.sqrt(max(1, len(one)))
