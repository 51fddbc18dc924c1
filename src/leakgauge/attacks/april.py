"""Attention Privacy Leakage (APRIL), in closed form and by gradient matching. For vision transformers, batch 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from leakgauge.analytic.last_layer import rounding
from leakgauge.analytic.patch_embedding import PatchEquations, patch_equations
from leakgauge.attacks.recipe import Recipe, plan_matching
from leakgauge.core import (
    CERTIFIED_WITHIN,
    CONVERGED_WITHIN,
    BaseAttack,
    Cost,
    Inapplicable,
    Moment,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    image_grid,
)
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion import L2, LBFGS, Direct, GradientMatching, Known, TensorCosine
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.output import label_of_one

CUTS = (1.0, 1e1, 1e2, 1e3, 1e4)
"""Multiples of the gradient's rounding error. Smaller singular values are dropped. The residual chooses."""
LABELS = 2
"""Number of likely labels to try besides an uncertain one: the largest rows of the last layer's gradient."""


@dataclass(frozen=True, kw_only=True)
class April(BaseAttack):
    r"""Solve linear equations for the patches of one image that a vision transformer was trained on.

    Use it for batch 1 if the model has a learned positional embedding. It is a closed form, without
    a search. If the positional embedding has fewer dimensions than there are tokens, try
    `AprilMatching`.

    .. math::

        \text{attention:} \quad G^\top Z = W_q^\top \Delta_q + W_k^\top \Delta_k + W_v^\top \Delta_v
        \qquad \text{embedding:} \quad G_P^\top X = \Delta_P

    Here :math:`G` (tokens, dim) is the gradient of the positional embedding, and :math:`G_P`
    (patches, dim) its rows for the patches. The tokens are :math:`Z` (tokens, dim), and the image's
    patches of p numbers each are :math:`X` (patches, p). The gradients of the first attention's
    weights :math:`W_q`, :math:`W_k` and :math:`W_v` are :math:`\Delta_q`, :math:`\Delta_k` and
    :math:`\Delta_v`. The gradient of the patch embedding's weight is :math:`\Delta_P`. The tokens
    without the positional embedding give the patches.

    The equations have one solution if :math:`G` has full rank. This needs at least as many
    dimensions as tokens. If there are several solutions, the message says why. The result is
    certified if there is one solution and its simulated update agrees.

    Args:
        equations: "attention" is the paper's choice. It works only if the first attention reads the
            tokens directly, without a normalization and without a skip connection around it.
            "embedding" is ours, and works with both.

    References:
        Lu, Zhang, Zhao, He, Cheng. APRIL: Finding the Achilles' Heel on Privacy for Vision
        Transformers. CVPR 2022, section 3.2. arXiv:2112.14087.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.ImageDomain(1, 8, 8)
        >>> model = lg.models.build(lg.models.vit, domain, 10, patch=4, dim=32, heads=2)
        >>> observation = lg.examples.observation(model=model)
        >>> attack = lg.attacks.April(equations="embedding")
        >>> attack(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
    """

    equations: Literal["attention", "embedding"] = "attention"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        labels = likely_labels(observation)
        if isinstance(labels, Inapplicable):
            return labels
        found = patch_equations(observation.model, observation.domain)
        if isinstance(found, Inapplicable):
            return found
        if self.equations == "attention" and found.attention is None:
            return Inapplicable(
                "the first attention does not read the tokens directly: there is a normalization or a skip "
                'connection. Set equations = "embedding", which works with both'
            )
        search = partial(self.search, mean_network(observation), found, labels)
        return Plan(evaluations=len(CUTS) * len(labels), search=search)

    def search(
        self,
        observation: Observation,
        equations: PatchEquations,
        labels: list[Tensor],
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the image from the cut and the label whose simulated update matches best."""
        candidates: list[_Candidate] = []

        def best() -> Reconstruction:
            chosen = min(candidates, key=lambda candidate: candidate.residual)
            return chosen.reconstruction(observation, len(candidates))

        with seeds.isolated("simulation"):
            for i, cut in enumerate(CUTS):
                candidates += self.candidates(observation, equations, labels, cut=cut)
                latest = best if candidates else None
                progress(Moment((i + 1) / len(CUTS), len(candidates), best=latest))
        if not candidates:
            reason = "the positional embedding's gradient is 0, so there are no equations to solve"
            return report_nothing_found(observation, Status.UNCONVERGED, reason)
        return best()

    def candidates(
        self,
        observation: Observation,
        equations: PatchEquations,
        labels: list[Tensor],
        *,
        cut: float,
    ) -> list[_Candidate]:
        """Return one candidate for each label.

        Singular values of G below `cut` times its rounding error are dropped.
        """
        update = observation.update.tensors
        whole = update[equations.position].double().cpu()
        whole = whole.reshape(-1, whole.shape[-1])
        slopes = whole if self.equations == "attention" else equations.slopes(update)
        least = cut * max(rounding(update[equations.position]).shared, 1e-14)
        back, rank = truncated_inverse(slopes, least)
        if rank == 0:
            return []
        if self.equations == "attention":
            found = equations.from_attention(
                update, dict(observation.model.named_parameters()), back
            )
        else:
            found = equations.from_embedding(update, back)
        # The domain's range is public, so a value outside it is certainly an error.
        unit = equations.image(found).clamp(0, 1).to(observation.update.like)
        simulate = simulator(observation, create_graph=False)
        reasons = (
            []
            if rank == len(slopes)
            else [f"the gradient has rank {rank} for {len(slopes)} tokens"]
        )
        if self.equations == "attention":
            reasons += list_lost_dimensions(equations)
        return [
            _Candidate(
                unit, label, float(relative_residual(simulate(unit, label), update)), reasons
            )
            for label in labels
        ]


@dataclass(frozen=True)
class _Candidate:
    """A candidate image with its label.

    Args:
        unit: The image (1, C, H, W) in unit coordinates.
        label: The class (1,).
        residual: Distance of the simulated update to the observed one, relative to the observed
            one's norm.
        reasons: Reasons why the equations have more than one solution. Empty if they have one.
    """

    unit: Tensor
    label: Tensor
    residual: float
    reasons: list[str]

    def reconstruction(self, observation: Observation, evaluations: int) -> Reconstruction:
        """Return the reconstruction. Rank and residual decide on its status."""
        status = Status.UNCONVERGED
        if self.residual <= CONVERGED_WITHIN:
            status = Status.CONVERGED
        if self.residual <= CERTIFIED_WITHIN and not self.reasons:
            status = Status.CERTIFIED
        solved = (
            "not determined (" + "; ".join(self.reasons) + ")" if self.reasons else "determined"
        )
        return Reconstruction(
            inputs=observation.domain.from_unit(self.unit),
            targets=self.label,
            found=torch.ones(1, dtype=torch.bool),
            status=status,
            message=f"the patches are {solved}; the update is matched to {self.residual:.2g} of its norm",
            residual=self.residual,
            cost=Cost(evaluations),
        )


def likely_labels(observation: Observation) -> list[Tensor] | Inapplicable:
    """Return the labels (1,) to simulate, or the reason why the attack cannot start.

    A granted label is the only one. Otherwise the first label is recovered from the update. If that
    label is not certain, other likely labels follow.
    """
    reason = observation.not_one_example()
    if reason is not None:
        return Inapplicable(reason)
    if image_grid(observation.domain) is None:
        return Inapplicable(f"needs images to cut into patches, not a {observation.domain.kind}")
    if observation.knowledge.labels is not None:
        return [observation.knowledge.labels]
    found = label_of_one(observation)
    if isinstance(found, Inapplicable):
        return Inapplicable(f"labels are not granted, and cannot be recovered: {found}")
    device = observation.update.like.device
    # With cross-entropy, the output of the example's class has the largest derivative. The signs of
    # the features do not matter.
    rows = found.head.dweight.norm(dim=1).argsort(descending=True)[:LABELS].tolist()
    tried = [found.label] if found.certain else dict.fromkeys([found.label, *rows])
    return [torch.tensor([label], device=device) for label in tried]


def truncated_inverse(slopes: Tensor, least: float) -> tuple[Tensor, int]:
    """Return the pseudo-inverse (N, d) of the transpose of G, and its rank.

    Args:
        slopes: The matrix G (N, d).
        least: Singular values up to this fraction of the largest are dropped.
    """
    left, values, right = torch.linalg.svd(slopes, full_matrices=False)
    kept = values > least * values[0]
    scaled = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0)
    return (left * scaled) @ right, int(kept.sum())


def list_lost_dimensions(equations: PatchEquations) -> list[str]:
    """Return why a patch cannot be computed from its embedding, or an empty list if it can."""
    weight = equations.conv.weight.detach().flatten(1)
    rank = int(torch.linalg.matrix_rank(weight))
    if rank == weight.shape[1]:
        return []
    return [f"patches of {weight.shape[1]} numbers are embedded in {rank} dimensions"]


@dataclass(frozen=True, kw_only=True)
class AprilMatching(Recipe):
    r"""Match gradients of a vision transformer, with extra weight on the positional embedding's gradient.

    Use it for batch 1 and any vision transformer with a learned positional embedding. `April` is
    faster and exact, but needs as many dimensions as tokens.

    .. math::

        \min_x \; \sum_l \|g_l(x, y) - g^*_l\|^2
        + w \left(1 - \frac{\langle G(x, y), G^* \rangle}{\|G(x, y)\| \, \|G^*\|}\right)

    Here :math:`g_l` is the simulated gradient of parameter tensor l, and :math:`g^*_l` the observed
    one. For the positional embedding, they are :math:`G` and :math:`G^*`. The weight :math:`w` is
    `weight`. L-BFGS lowers this objective in float64.

    Args:
        steps: Number of steps of L-BFGS, at least 1.
        weight: Weight w of the direction, at least 0.
        position: Name of the positional embedding among the model's parameters. None: the attack
            finds it from simulated gradients, whatever its name.

    References:
        Lu, Zhang, Zhao, He, Cheng. APRIL: Finding the Achilles' Heel on Privacy for Vision
        Transformers. CVPR 2022, section 3.3. arXiv:2112.14087.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.ImageDomain(1, 8, 8)
        >>> model = lg.models.build(lg.models.vit, domain, 10, patch=4, dim=32, heads=2)
        >>> observation = lg.examples.observation(model=model)
        >>> attack = lg.attacks.AprilMatching(steps=10)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Count = 300
    weight: NonNegative = 1.0
    position: str | None = None

    def matching(self) -> GradientMatching:
        assert self.position is not None, "`prepare` finds the positional embedding first"
        return GradientMatching(
            objective=L2() + self.weight * TensorCosine(self.position),
            parametrization=Direct(center=0.5, spread=0.1),
            labels=Known(),
            descent=LBFGS(steps=self.steps),
            precision="double",
        )

    def with_position(self, observation: Observation) -> AprilMatching | Inapplicable:
        """Return this attack with the positional embedding's name, or the reason why the name is not known."""
        if self.position is not None:
            known = self.position in observation.update.tensors
            reason = (
                f"the update has no tensor {self.position!r}: set position to a parameter's name"
            )
            return self if known else Inapplicable(reason)
        found = patch_equations(observation.model, observation.domain)
        return found if isinstance(found, Inapplicable) else replace(self, position=found.position)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        labels = likely_labels(observation)
        if isinstance(labels, Inapplicable):
            return labels
        found = self.with_position(observation)
        if isinstance(found, Inapplicable):
            return found
        return plan_matching(found.matching(), observation)
