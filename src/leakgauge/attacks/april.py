"""Attention Privacy Leakage. Lu, Zhang, Zhao, He, Cheng: CVPR 2022. Vision transformers, batch 1.

Closed form (section 3.2): with G = dL/dE_pos, the learned positional embedding's gradient,
    G' z = W_q' dW_q + W_k' dW_k + W_v' dW_v          z = pinv(G') (...)          x from z - E_pos
where the tokens z enter the attention as they are, without normalization or skip connection. Ours:
    G' X = dP                                         the patches X, from their embedding's own gradient
which asks for neither. Both are determined where G has full rank: no more tokens than dimensions.

By optimization (section 3.3):   minimize over x   || g - g* ||^2 + weight (1 - cos(G, G*))
"""

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
from leakgauge.core.verdicts import nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion import L2, LBFGS, Direct, GradientMatching, Known, TensorCosine
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.output import label_of_one

CUTS = (1.0, 1e1, 1e2, 1e3, 1e4)
"""Singular values of G dropped: below these multiples of its rounding. The residual chooses."""
LABELS = 2
"""Labels tried where none is granted: the rows of the last layer's gradient of largest norm."""


@dataclass(frozen=True, kw_only=True)
class April(BaseAttack):
    """The patches of one image from linear equations. `equations`: "attention" are the paper's."""

    equations: Literal["attention", "embedding"] = "attention"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        labels = likely(observation)
        if isinstance(labels, Inapplicable):
            return labels
        found = patch_equations(observation.model, observation.domain)
        if isinstance(found, Inapplicable):
            return found
        if self.equations == "attention" and found.attention is None:
            return Inapplicable(
                "the first attention does not see the tokens themselves, or something else sees "
                'them too (a normalization, a skip connection): equations = "embedding" needs neither'
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
        """Return the image of the cut and label whose update matches best."""
        guesses: list[_Guess] = []

        def best() -> Reconstruction:
            chosen = min(guesses, key=lambda guess: guess.residual)
            return chosen.reconstruction(observation, len(guesses))

        with seeds.isolated("simulation"):
            for i, cut in enumerate(CUTS):
                guesses += self.guesses(observation, equations, labels, cut=cut)
                told = best if guesses else None
                progress(Moment((i + 1) / len(CUTS), len(guesses), best=told))
        if not guesses:
            reason = "the positional embedding's gradient is 0"
            return nothing_found(observation, Status.UNCONVERGED, reason)
        return best()

    def guesses(
        self,
        observation: Observation,
        equations: PatchEquations,
        labels: list[Tensor],
        *,
        cut: float,
    ) -> list[_Guess]:
        """Return one for each label, with the singular values of G cut at that multiple of its rounding."""
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
        # The domain's range is public: a value outside it is an error, for certain.
        unit = equations.image(found).clamp(0, 1).to(observation.update.like)
        simulate = simulator(observation, create_graph=False)
        short = [] if rank == len(slopes) else [f"{len(slopes)} tokens, rank {rank}"]
        if self.equations == "attention":
            short += undetermined(equations)
        return [
            _Guess(unit, label, float(relative_residual(simulate(unit, label), update)), short)
            for label in labels
        ]


@dataclass(frozen=True)
class _Guess:
    unit: Tensor
    label: Tensor
    residual: float
    short: list[str]

    def reconstruction(self, observation: Observation, evaluations: int) -> Reconstruction:
        """Return the guess, with a status that the rank and the residual prove, or do not."""
        status = Status.UNCONVERGED
        if self.residual <= CONVERGED_WITHIN:
            status = Status.CONVERGED
        if self.residual <= CERTIFIED_WITHIN and not self.short:
            status = Status.CERTIFIED
        told = "not determined (" + "; ".join(self.short) + ")" if self.short else "determined"
        return Reconstruction(
            inputs=observation.domain.from_unit(self.unit),
            targets=self.label,
            found=torch.ones(1, dtype=torch.bool),
            status=status,
            message=f"the patches are {told}; the update is matched to {self.residual:.2g} of its norm",
            residual=self.residual,
            cost=Cost(evaluations),
        )


def likely(observation: Observation) -> list[Tensor] | Inapplicable:
    """Return the labels (1,) worth simulating, or the reason why neither variant can start.

    That is the granted one, else the one read from the update and the likeliest others.
    """
    reason = observation.not_one_example()
    if reason is not None:
        return Inapplicable(reason)
    if image_grid(observation.domain) is None:
        return Inapplicable(f"cuts images into patches, not a {observation.domain.kind}")
    if observation.knowledge.labels is not None:
        return [observation.knowledge.labels]
    found = label_of_one(observation)
    if isinstance(found, Inapplicable):
        return Inapplicable(f"labels are not granted, and cannot be read: {found}")
    device = observation.update.like.device
    # With cross-entropy the example's own output has the largest derivative, whatever the features' signs.
    rows = found.head.dweight.norm(dim=1).argsort(descending=True)[:LABELS].tolist()
    tried = [found.label] if found.certain else dict.fromkeys([found.label, *rows])
    return [torch.tensor([label], device=device) for label in tried]


def truncated_inverse(slopes: Tensor, least: float) -> tuple[Tensor, int]:
    """Return the pseudo-inverse (N, d) of G' for G (N, d), and its rank.

    least: singular values below this fraction of the greatest are dropped.
    """
    left, values, right = torch.linalg.svd(slopes, full_matrices=False)
    kept = values > least * values[0]
    scaled = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0)
    return (left * scaled) @ right, int(kept.sum())


def undetermined(equations: PatchEquations) -> list[str]:
    """Return why the embedding of a patch does not tell the patch, or an empty list if it does."""
    weight = equations.conv.weight.detach().flatten(1)
    rank = int(torch.linalg.matrix_rank(weight))
    if rank == weight.shape[1]:
        return []
    return [f"patches of {weight.shape[1]} numbers, embedded in {rank}"]


@dataclass(frozen=True, kw_only=True)
class AprilMatching(Recipe):
    """Gradient matching that asks the positional embedding's gradient for its direction, too.

    `weight` is that of the direction. For any vision transformer with a learned positional embedding.
    """

    steps: Count = 300
    weight: NonNegative = 1.0
    position: str | None = None
    """The positional embedding's name. By default it is found by what its gradient does."""

    def matching(self) -> GradientMatching:
        assert self.position is not None, "found before anything is matched"
        return GradientMatching(
            objective=L2() + self.weight * TensorCosine(self.position),
            parametrization=Direct(center=0.5, spread=0.1),
            labels=Known(),
            descent=LBFGS(steps=self.steps),
            precision="double",
        )

    def named(self, observation: Observation) -> AprilMatching | Inapplicable:
        """Return this recipe with the positional embedding's name, or the reason why it has none."""
        if self.position is not None:
            known = self.position in observation.update.tensors
            reason = f"no tensor of the update is called {self.position!r}"
            return self if known else Inapplicable(reason)
        found = patch_equations(observation.model, observation.domain)
        return found if isinstance(found, Inapplicable) else replace(self, position=found.position)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        labels = likely(observation)
        if isinstance(labels, Inapplicable):
            return labels
        found = self.named(observation)
        if isinstance(found, Inapplicable):
            return found
        return plan_matching(found.matching(), observation)
