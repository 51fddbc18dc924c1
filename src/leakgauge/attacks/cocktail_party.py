"""Cocktail Party Attack. Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee: ICML 2023, section 4.

    dW = Delta' H     so the rows of dW are mixtures of the B inputs h_j, as voices at a party are
    V = argmin  - mean_i (E log cosh v_i x)^2 + tv TV(v_i x) + independence mean_{i != j} exp(T |cos(v_i, v_j)|)
    x = dW centered and whitened, to B components;  h_j is v_j dW up to sign and scale, which db tells

That is `optimizer = "adam"` with `rounds = 0`. By default (ours): the fixed point of the symmetric algorithm
on differences of neighboring pixels, colors apart, which are far sparser and less alike from image to image
than pixels; then silent outputs (`leakgauge.analytic.silence`), which make it exact where the layer feeds a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.cocktail_party import Rotate, Sources, Unmixer, completed, unmix
from leakgauge.analytic.independence import NegentropyDescent, fixed_point
from leakgauge.analytic.linear import LinearEntry, entry, layer_call
from leakgauge.analytic.mixtures import mixture
from leakgauge.analytic.tail import Tail
from leakgauge.analytic.views import centered, edges
from leakgauge.core import (
    CERTIFIED_WITHIN,
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
from leakgauge.core.progress import Best
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.core.verdicts import nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.objectives.variation import OPPONENT, TotalVariation
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.output import Contribution

ZERO = torch.zeros(())
EXPLAINED = CERTIFIED_WITHIN
"""Fraction of the layer's gradient left over at which the examples explain it."""


@dataclass(frozen=True, kw_only=True)
class CocktailParty(BaseAttack):
    """Every input of a first linear layer, for batches smaller than its outputs, whatever the labels.

    steps to sharpness are those of `optimizer = "adam"`, the paper's; its weights are tuned a model there, and
    are guesses here. `rounds` of silent outputs: 0 leaves what independent components tell.
    """

    optimizer: Literal["fixed_point", "adam"] = "fixed_point"
    rounds: Annotated[int, Ge(0)] = 12
    steps: Count = 25_000
    lr: Positive = 1e-3
    tv: NonNegative = 1.0
    independence: NonNegative = 0.1
    sharpness: Positive = 10.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if observation.classes is None:
            return Inapplicable("needs a loss over classes, to tell which example causes what")
        found = entry(observation)
        if isinstance(found, Inapplicable):
            return found
        reason = too_many(observation, found.name)
        if reason is not None:
            return Inapplicable(reason)
        if isinstance(found.contribution, Inapplicable):
            return found.contribution
        seen = mean_network(observation)
        return Plan(evaluations=1, search=partial(self.search, seen, found, found.contribution))

    def search(
        self,
        observation: Observation,
        found: LinearEntry,
        contribution: Contribution,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the batch that the gradient of the first linear layer is a mixture of."""
        tensors = observation.update.tensors
        shared = mixture(
            tensors[f"{found.name}.weight"].cpu(),
            tensors[f"{found.name}.bias"].cpu(),
            observation.batch_size,
        )
        if not len(shared.strength):
            reason = "nothing in the first linear layer's gradient stands out of the noise"
            return nothing_found(observation, Status.UNCONVERGED, reason)
        told = _Rounds(progress, self.rounds + 1)
        unmixer = self.unmixer(observation, found, contribution, told)

        def finish(sources: Sources) -> Reconstruction:
            blank = unmixer.plausible(torch.zeros(1, shared.signals.shape[1] - 1).double())
            whole = completed(sources, observation.batch_size, blank[0])
            return reconstruction(observation, found, whole)

        def rounded(sources: Sources) -> None:
            def best() -> Reconstruction:
                with seeds.isolated("simulation"):
                    return finish(sources)

            told.end(best)

        with seeds.isolated("simulation"):
            generator = seeds.generator("unmixing")
            sources = unmix(shared, unmixer, generator, rounds=self.rounds, tell=rounded)
            return finish(sources)

    def unmixer(
        self,
        observation: Observation,
        found: LinearEntry,
        contribution: Contribution,
        told: _Rounds,
    ) -> Unmixer:
        """Return how the inputs of the first linear layer are told apart, on this domain."""
        shape, domain = observation.domain.shape, observation.domain
        zero = found.invert(torch.zeros(1, found.layer.in_features).double())

        def units(signals: Tensor) -> Tensor:
            return found.invert(signals) - zero

        def plausible(features: Tensor) -> Tensor:
            unit = found.invert(features).clamp(0, 1)
            return layer_call(found.model, found.layer, domain.from_unit(unit))[0].detach()

        grid = image_grid(domain)
        images = grid is not None and min(grid[1:]) > 1

        def views(signals: Tensor) -> Tensor:
            if images and self.optimizer == "fixed_point":
                return edges(units(signals), colors(shape[0]))
            return centered(units(signals).flatten(1))

        return Unmixer(
            tail=Tail(found.model, found.layer, found.loss, domain, contribution),
            views=views,
            rotate=self.rotate(shape if images else None, told),
            plausible=plausible,
        )

    def rotate(self, shape: tuple[int, ...] | None, told: _Rounds) -> Rotate:
        """Return the search for independent components.

        shape: of images (C, H, W), or None if the examples are no images. told: is told the fraction of a search.
        """
        if self.optimizer == "fixed_point":
            return fixed_point

        def prior(unmixed: Tensor) -> Tensor:
            # Tables have no neighbors.
            return self.tv * TotalVariation().of(unmixed.reshape(-1, *shape)) if shape else ZERO

        return NegentropyDescent(
            steps=self.steps,
            lr=self.lr,
            independence=self.independence,
            sharpness=self.sharpness,
            prior=prior,
            tell=told.part,
        )


class _Rounds:
    """Tells the moments of `rounds` rounds of equal length."""

    def __init__(self, progress: Progress, rounds: int) -> None:
        self.progress, self.rounds, self.done = progress, rounds, 0
        self.best: Best | None = None

    def part(self, fraction: float) -> None:
        """Tell the fraction that is done of the round under way."""
        self.progress(Moment((self.done + fraction) / self.rounds, best=self.best))

    def end(self, best: Best) -> None:
        """Tell the end of a round, with the best reconstruction so far."""
        self.done, self.best = self.done + 1, best
        self.part(0.0)


def too_many(observation: Observation, name: str) -> str | None:
    """Return why the linear layer `name` cannot tell the examples of the batch apart, or None if it may."""
    outputs, inputs = observation.update.tensors[f"{name}.weight"].shape
    batch, least = observation.knowledge.batch_size or 1, min(outputs, inputs)
    if batch <= least:
        return None
    return f"batch {batch} > {least}: the first linear layer, {name!r}, is {outputs} x {inputs}"


def colors(channels: int) -> Tensor:
    """Return brightness and two differences of colors (3, 3) for three channels, else each channel by itself."""
    if channels != len(OPPONENT):
        return torch.eye(channels, dtype=torch.float64)
    axes: Tensor = normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1)
    return axes


def reconstruction(
    observation: Observation, found: LinearEntry, sources: Sources
) -> Reconstruction:
    """Return the batch as it was unmixed. The message says how many examples the model confirms."""
    batch = observation.batch_size
    like = observation.update.like
    unit = found.invert(sources.features).clamp(0, 1)
    unmixed = sources.error.isfinite()
    unit[~unmixed] = 0.5
    unit = unit.to(like)
    residual = None
    if bool((sources.labels >= 0).all()):
        simulated = simulator(observation, create_graph=False)(unit, sources.labels.to(like.device))
        residual = float(relative_residual(simulated, observation.update.tensors))
    proven = int(sources.proven.sum())
    exact = proven == batch and sources.left_over < EXPLAINED
    status = status_of(observation, unit, sources.labels, residual, proven=exact)
    return Reconstruction(
        inputs=observation.domain.from_unit(unit).detach(),
        targets=sources.labels,
        found=unmixed,
        status=status,
        message=f"{int(unmixed.sum())} of {batch} examples unmixed, {proven} confirmed by the model; "
        f"{sources.left_over:.1g} of the layer's gradient left over",
        residual=residual,
        cost=Cost(1),
        notes=(f"silent outputs: {sources.exact} of {batch} examples",),
    )
