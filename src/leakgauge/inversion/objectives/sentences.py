"""Terms of an objective for sentences, whose unit coordinates are embeddings (B, L, d)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.inversion.objectives.features import FeatureExtractor
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares, Term


@dataclass(frozen=True)
class LayerCosine(Term):
    r"""One minus the mean cosine similarity of the tensors of the updates.

    .. math::

        1 - \frac{1}{L} \sum_l \frac{\langle g_l, g^*_l \rangle}{\| g_l \| \, \| g^*_l \|}

    Here :math:`g_l` is tensor :math:`l` of the L tensors of the simulated update, and :math:`g^*_l`
    the observed one. Each tensor has the same weight, whatever its size. Tensors whose observed
    entries are all zero are left out.

    References:
        Balunović, Dimitrov, Jovanović, Vechev. LAMP: Extracting Text from Gradients with Language
        Model Priors. NeurIPS 2022, section 4.2. arXiv:2202.08827.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, LayerCosine
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> LayerCosine()(candidate)
        tensor(0.4000)
    """

    def __call__(self, candidate: Candidate) -> Tensor:
        pairs = [(candidate.simulated[n], t) for n, t in candidate.observed.items()]
        ours = torch.stack([s.square().sum() for s, _ in pairs])
        theirs = torch.stack([t.square().sum() for _, t in pairs])
        inner = torch.stack([(s * t).sum() for s, t in pairs])
        held = (theirs > 0).to(theirs)
        tiny = torch.finfo(ours.dtype).tiny ** 0.5
        cosines = inner / (ours.clamp_min(tiny).sqrt() * theirs.clamp_min(tiny).sqrt())
        return 1 - (cosines * held).sum() / held.sum().clamp_min(1)


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingNorm(LeastSquares):
    r"""Prior: embeddings are on average as long as those of the vocabulary.

    .. math::

        \left( \frac{1}{n} \sum_i \| x_i \| - r \right)^2

    Here :math:`x_i` are the embeddings of the n unknown places, and r is the mean length of the
    vocabulary's embeddings.

    Args:
        unknown: Whether each place (B, L) is unknown.
        length: The mean length r.

    References:
        Balunović, Dimitrov, Jovanović, Vechev. LAMP: Extracting Text from Gradients with Language
        Model Priors. NeurIPS 2022, section 4.2. arXiv:2202.08827.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, EmbeddingNorm
        >>> term = EmbeddingNorm(torch.ones(1, 2, dtype=torch.bool), length=3.0)
        >>> term(Candidate(torch.ones(1, 2, 4), torch.zeros(1), {}, {}))
        tensor(1.)
    """

    unknown: Tensor
    length: float

    collective: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        weights = self.unknown.to(candidate.unit)
        squares = candidate.unit.square().sum(-1).clamp_min(1e-24)
        mean = (squares.sqrt() * weights).sum() / weights.sum().clamp_min(1)
        return (mean - self.length).reshape(1)

    def __repr__(self) -> str:
        return f"EmbeddingNorm(length={self.length:.3g})"


@dataclass(frozen=True, eq=False, repr=False)
class SpanDistance(Term):
    r"""Distance of the inputs of a linear layer from the span of its weight's gradient.

    .. math::

        \frac{1}{n} \sum_i \frac{\| z_i - P z_i \|^2}{\| z_i \|^2}

    Here :math:`z_i` are the inputs of the layer at n places, and P projects to the span. The
    gradient of the weight is a sum of products of these inputs. So the inputs of the private
    batch lie in its span, unless the batch has as many tokens as the layer has inputs.

    Args:
        network: The observed model up to the layer.
        basis: Orthonormal basis (r, d) of the span.
        held: Whether each place (B, L) holds a token.

    References:
        Petrov, Dimitrov, Baader, Müller, Vechev. DAGER: Exact Gradient Inversion for Large Language
        Models. NeurIPS 2024. arXiv:2405.15586.

    Example:
        >>> from leakgauge.inversion import SpanDistance
        >>> SpanDistance.collective
        True
    """

    network: FeatureExtractor
    basis: Tensor
    held: Tensor

    collective: ClassVar[bool] = True

    def __call__(self, candidate: Candidate) -> Tensor:
        basis = self.basis.to(candidate.unit)
        inputs = self.network(candidate.unit).view(*self.held.shape, basis.shape[1])
        rest = inputs - inputs @ basis.T @ basis
        tiny = torch.finfo(inputs.dtype).tiny
        parts = rest.square().sum(-1) / inputs.square().sum(-1).clamp_min(tiny)
        weights = self.held.to(parts)
        return (parts * weights).sum() / weights.sum().clamp_min(1)

    def __repr__(self) -> str:
        return f"SpanDistance({len(self.basis)} of {self.basis.shape[1]} dimensions)"
