"""Distances between the simulated and the observed update. Each is zero if the two are equal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.core import CONVERGED_WITHIN, Observation, Tensors
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares, Term

MATCHED = CONVERGED_WITHIN
"""Relative residual of the update, `|g - g*| / |g*|`, at which a reconstruction counts as converged."""


def squared_differences(simulated: Tensors, observed: Tensors) -> Tensor:
    """Return `|g_l - g*_l|^2` for each of the L tensors, stacked (L,)."""
    return torch.stack([(simulated[n] - observed[n]).square().sum() for n in observed])


def squared_norms(tensors: Tensors) -> Tensor:
    """Return `|g_l|^2` for each of the L tensors, stacked (L,)."""
    return torch.stack([t.square().sum() for t in tensors.values()])


def relative_residual(simulated: Tensors, observed: Tensors) -> Tensor:
    r"""Return `|g - g*| / |g*|`, the measure that compares different attacks on one observation.

    Both updates are divided by the largest entry of g\* first, because squares of 1e-30 are 0 in
    float32.
    """
    largest = max((float(t.abs().max()) for t in observed.values() if t.numel()), default=0.0)
    unit = largest or 1.0
    ours = {name: simulated[name].double() / unit for name in observed}
    theirs = {name: t.double() / unit for name, t in observed.items()}
    tiny = torch.finfo(torch.float64).tiny
    difference = squared_differences(ours, theirs).sum()
    return (difference / squared_norms(theirs).sum().clamp_min(tiny)).sqrt()


class Distance(LeastSquares):
    """A distance whose residuals have the shapes of the update's tensors."""

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        """Return the residuals by parameter name. They are zero where the updates agree."""
        raise NotImplementedError

    def residuals(self, candidate: Candidate) -> Tensor:
        return torch.cat([t.flatten() for t in self.residual_tensors(candidate).values()])


@dataclass(frozen=True)
class L2(Distance):
    r"""Squared Euclidean distance of the updates.

    .. math::

        \sum_l \| g_l - g^*_l \|^2

    Here :math:`g_l` is tensor :math:`l` of the simulated update, and :math:`g^*_l` the observed
    one. It is the distance of DLG. The layers with the largest gradients dominate it.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, equation 4. arXiv:1906.08935.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import L2, Candidate
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> L2()(candidate)
        tensor(16.)
    """

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        return {n: candidate.simulated[n] - tensor for n, tensor in candidate.observed.items()}


@dataclass(frozen=True)
class L1(Term):
    r"""Sum of the absolute differences of the updates.

    .. math::

        \sum_l \| g_l - g^*_l \|_1

    Here :math:`g_l` is tensor :math:`l` of the simulated update, and :math:`g^*_l` the observed
    one. Minimizing it maximizes the likelihood under Laplacian noise. TAG adds it to the squared
    distance.

    References:
        Deng, Wang, Li, Wang, Shang, Liu, Rajasekaran, Ding. TAG: Gradient Attack on
        Transformer-based Language Models. Findings of EMNLP 2021. arXiv:2103.06819.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import L1, Candidate
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> L1()(candidate)
        tensor(4.)
    """

    def __call__(self, candidate: Candidate) -> Tensor:
        pairs = ((candidate.simulated[n], tensor) for n, tensor in candidate.observed.items())
        return torch.stack([(ours - theirs).abs().sum() for ours, theirs in pairs]).sum()


@dataclass(frozen=True)
class LayerNorms(Term):
    r"""Sum of the Euclidean distances of the tensors, not squared.

    .. math::

        \sum_l \| g_l - g^*_l \|

    Here :math:`g_l` is tensor :math:`l` of the simulated update, and :math:`g^*_l` the observed
    one. Since norms are not squared, each tensor pulls with the same force until it is matched.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021. arXiv:2104.07586.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, LayerNorms
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> LayerNorms()(candidate)
        tensor(4.)
    """

    def __call__(self, candidate: Candidate) -> Tensor:
        squares = squared_differences(candidate.simulated, candidate.observed)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt().sum()


@dataclass(frozen=True)
class BalancedL2(Distance):
    r"""Squared distance that weighs small tensors more than `L2` does. Ours.

    .. math::

        \sum_l \frac{\| g_l - g^*_l \|^2}{\| g^*_l \| \, \| g^* \|}

    Here :math:`g_l` is tensor :math:`l` of the simulated update, and :math:`g^*_l` the observed
    one. The weights are the geometric mean of two extremes. With equal weights (`L2`), the last
    layer dominates, since its gradient is the largest. With weights :math:`1 / \| g^*_l \|^2`, the
    layers that carry the least information are amplified. The weights depend only on the observed
    update.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import BalancedL2, Candidate
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> BalancedL2()(candidate)
        tensor(1.7778)
    """

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        simulated, observed = candidate.simulated, candidate.observed
        norms = squared_norms(observed).sqrt()
        # A tensor that a defense set to zero carries no information, and its norm cannot divide.
        weights = torch.where(norms > 0, 1 / (norms * norms.square().sum().sqrt()), 0.0).sqrt()
        scaled = zip(weights, observed, strict=True)
        return {n: w * (simulated[n] - observed[n]) for w, n in scaled}


@dataclass(frozen=True)
class Cosine(Distance):
    r"""One minus the cosine similarity of the whole updates.

    .. math::

        1 - \frac{\langle g, g^* \rangle}{\| g \| \, \| g^* \|}
        = \frac{1}{2} \left\| \frac{g}{\| g \|} - \frac{g^*}{\| g^* \|} \right\|^2

    Here :math:`g` is the simulated update, and :math:`g^*` the observed one. The distance ignores
    the length of the update. The right-hand side gives the residuals for second-order descents.

    References:
        Geiping, Bauermeister, Dröge, Moeller. Inverting Gradients: How Easy Is It to Break Privacy
        in Federated Learning? NeurIPS 2020, equation 4. arXiv:2003.14053.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, Cosine
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> Cosine()(candidate)
        tensor(0.4000)
    """

    def __call__(self, candidate: Candidate) -> Tensor:
        simulated, observed = candidate.simulated, candidate.observed
        inner = torch.stack([(simulated[n] * observed[n]).sum() for n in observed]).sum()
        return 1 - inner / (_norm(simulated) * _norm(observed))

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        simulated, observed = candidate.simulated, candidate.observed
        ours, theirs = 0.5**0.5 / _norm(simulated), 0.5**0.5 / _norm(observed)
        return {n: simulated[n] * ours - tensor * theirs for n, tensor in observed.items()}


@dataclass(frozen=True)
class TensorCosine(Term):
    r"""One minus the cosine similarity of one tensor of the updates.

    .. math::

        1 - \frac{\langle g_l, g^*_l \rangle}{\| g_l \| \, \| g^*_l \|}

    Here :math:`g_l` is the tensor called `name` in the simulated update, and :math:`g^*_l` the same
    tensor in the observed one. Add it to a distance of the whole update to give one layer more
    weight, such as the position embedding of a vision transformer.

    Args:
        name: Name of the parameter in the model, for example "0.weight".

    References:
        Lu, Zhang, Zhao, He, Cheng. APRIL: Finding the Achilles' Heel on Privacy for Vision
        Transformers. CVPR 2022, equation 10. arXiv:2112.14087.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, TensorCosine
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> TensorCosine("weight")(candidate)
        tensor(0.4000)
    """

    name: str

    def alone(self, candidate: Candidate) -> Candidate:
        """Return the candidate with updates that consist of this tensor alone."""
        simulated = {self.name: candidate.simulated[self.name]}
        observed = {self.name: candidate.observed[self.name]}
        return replace(candidate, simulated=simulated, observed=observed)

    def __call__(self, candidate: Candidate) -> Tensor:
        return Cosine()(self.alone(candidate))

    def residuals(self, candidate: Candidate) -> Tensor:
        return Cosine().residuals(self.alone(candidate))

    def inapplicable(self, observation: Observation) -> str | None:
        if self.name in observation.update.tensors:
            return None
        return f"no tensor of the update is called {self.name!r}: name a parameter of the model"


def _norm(tensors: Tensors) -> Tensor:
    """Return the Euclidean norm of all tensors. Its square is clamped, since the slope of a root at 0 is infinite."""
    square = squared_norms(tensors).sum()
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
