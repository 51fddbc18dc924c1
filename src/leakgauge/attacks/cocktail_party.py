"""The Cocktail Party Attack: independent component analysis of the first linear layer's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.cocktail_party import Rotate, Sources, Unmixer, complete, unmix
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
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.objectives.variation import OPPONENT, TotalVariation
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.output import Contribution

ZERO = torch.zeros(())
EXPLAINED = CERTIFIED_WITHIN
"""Largest fraction of the layer's gradient that a certified result may leave unexplained."""


@dataclass(frozen=True, kw_only=True)
class CocktailParty(BaseAttack):
    r"""Separate the inputs of a first linear layer by independent component analysis, whatever their labels.

    Use it for batches no larger than the layer's numbers of outputs and inputs. Each row of the
    gradient mixes the inputs of all examples, as a microphone at a party mixes voices:

    .. math::

        &\Delta_W = \Delta^\top H \\
        &\min_V \; -\frac{1}{B} \sum_i \left(\mathrm{E} \log \cosh v_i x\right)^2 + \lambda \, \mathrm{TV}(V x)
        + \frac{\mu}{B (B - 1)} \sum_{i \neq j} \left(e^{\tau |\cos(v_i, v_j)|} - 1\right)

    Here :math:`\Delta_W` is the gradient of the layer's weight, and :math:`x` is this matrix after
    centering and whitening to B components. Row j of :math:`H` is the layer's input for example j.
    Row j of :math:`\Delta` is the gradient of the loss at the layer's output for this example. Row i
    of :math:`V` is :math:`v_i`, and :math:`v_j \Delta_W` is input j up to sign and scale. The
    gradient of the bias gives the sign and the scale. :math:`\mathrm{E}` is the mean over values.
    The weights :math:`\lambda` and :math:`\mu` are `tv` and `independence`, and :math:`\tau` is
    `sharpness`.

    The equation is the paper's method: `optimizer` "adam" with `rounds` 0. The default method is
    ours, and has two steps. First, the symmetric fixed-point algorithm of independent component
    analysis separates differences of neighboring pixels, for each color axis alone. These
    differences are sparser than pixels, and differ more between images. Second, silent outputs make
    the result exact if a ReLU follows the layer. An output is silent for an example that leaves it
    below zero (`leakgauge.analytic.silence`).

    Args:
        optimizer: "fixed_point" is ours, "adam" the paper's. The options `steps` to `sharpness` are
            for "adam" alone.
        rounds: Largest number of rounds of silent outputs, at least 0. With 0, independent
            components decide alone.
        steps: Number of steps of Adam, at least 1. The default is the paper's.
        lr: Step size of Adam, above 0. The default is the paper's.
        tv: Weight of total variation, at least 0. The paper tunes it for each model. The default is
            a rough choice.
        independence: Weight of the third term, at least 0. The paper tunes it for each model. The
            default is a rough choice.
        sharpness: The factor in the exponent, above 0. The paper tunes it for each model. The
            default is a rough choice.

    References:
        Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee. Cocktail Party Attack: Breaking
        Aggregation-Based Privacy in Federated Learning Using Independent Component Analysis. ICML
        2023, section 4. arXiv:2209.05578.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=4)
        >>> attack = lg.attacks.CocktailParty()
        >>> attack(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
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
            return Inapplicable(
                "needs a loss over classes, to simulate the gradient of each example"
            )
        found = entry(observation)
        if isinstance(found, Inapplicable):
            return found
        reason = why_too_many(observation, found.name)
        if reason is not None:
            return Inapplicable(reason)
        if isinstance(found.contribution, Inapplicable):
            return found.contribution
        plain = mean_network(observation)
        return Plan(evaluations=1, search=partial(self.search, plain, found, found.contribution))

    def search(
        self,
        observation: Observation,
        found: LinearEntry,
        contribution: Contribution,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the batch whose inputs are mixed in the gradient of the first linear layer."""
        tensors = observation.update.tensors
        shared = mixture(
            tensors[f"{found.name}.weight"].cpu(),
            tensors[f"{found.name}.bias"].cpu(),
            observation.batch_size,
        )
        if not len(shared.strength):
            reason = "the first linear layer's gradient is not above the noise"
            return report_nothing_found(observation, Status.UNCONVERGED, reason)
        report = _RoundProgress(progress, self.rounds + 1)
        unmixer = self.unmixer(observation, found, contribution, report)

        def finish(sources: Sources) -> Reconstruction:
            blank = unmixer.plausible(torch.zeros(1, shared.signals.shape[1] - 1).double())
            whole = complete(sources, observation.batch_size, blank[0])
            return reconstruction(observation, found, whole)

        def report_round(sources: Sources) -> None:
            def best() -> Reconstruction:
                with seeds.isolated("simulation"):
                    return finish(sources)

            report.end(best)

        with seeds.isolated("simulation"):
            generator = seeds.generator("unmixing")
            sources = unmix(shared, unmixer, generator, rounds=self.rounds, tell=report_round)
            return finish(sources)

    def unmixer(
        self,
        observation: Observation,
        found: LinearEntry,
        contribution: Contribution,
        report: _RoundProgress,
    ) -> Unmixer:
        """Return the method that separates the inputs of the first linear layer on this domain."""
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
                return edges(units(signals), color_axes(shape[0]))
            return centered(units(signals).flatten(1))

        return Unmixer(
            tail=Tail(found.model, found.layer, found.loss, domain, contribution),
            views=views,
            rotate=self.rotate(shape if images else None, report),
            plausible=plausible,
        )

    def rotate(self, shape: tuple[int, ...] | None, report: _RoundProgress) -> Rotate:
        """Return the search for independent components.

        Args:
            shape: The shape (C, H, W) of images, or None if the examples are not images.
            report: Receives the fraction of the search that is done, as the progress of a round.
        """
        if self.optimizer == "fixed_point":
            return fixed_point

        def prior(unmixed: Tensor) -> Tensor:
            # Values of a table have no neighbors, so total variation is for images alone.
            return self.tv * TotalVariation().of(unmixed.reshape(-1, *shape)) if shape else ZERO

        return NegentropyDescent(
            steps=self.steps,
            lr=self.lr,
            independence=self.independence,
            sharpness=self.sharpness,
            prior=prior,
            tell=report.part,
        )


class _RoundProgress:
    """The progress of `rounds` rounds of equal length."""

    def __init__(self, progress: Progress, rounds: int) -> None:
        self.progress, self.rounds, self.done = progress, rounds, 0
        self.best: Best | None = None

    def part(self, fraction: float) -> None:
        """Report the fraction that is done of the current round."""
        self.progress(Moment((self.done + fraction) / self.rounds, best=self.best))

    def end(self, best: Best) -> None:
        """Report the end of a round, with the best reconstruction so far."""
        self.done, self.best = self.done + 1, best
        self.part(0.0)


def why_too_many(observation: Observation, name: str) -> str | None:
    """Return why the linear layer `name` cannot separate the examples of the batch, or None if it may.

    The batch must not be larger than the layer's numbers of outputs and inputs.
    """
    outputs, inputs = observation.update.tensors[f"{name}.weight"].shape
    batch, least = observation.knowledge.batch_size or 1, min(outputs, inputs)
    if batch <= least:
        return None
    return (
        f"batch {batch} > {least}, the most examples that the first linear layer, {name!r}, of {outputs} x {inputs} "
        "weights can separate"
    )


def color_axes(channels: int) -> Tensor:
    """Return the axes (C, C) of color: brightness and two differences for three channels, else each channel alone."""
    if channels != len(OPPONENT):
        return torch.eye(channels, dtype=torch.float64)
    axes: Tensor = normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1)
    return axes


def reconstruction(
    observation: Observation, found: LinearEntry, sources: Sources
) -> Reconstruction:
    """Return the separated batch. The message says how many examples the model confirms."""
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
        f"a fraction of {sources.left_over:.1g} of the layer's gradient is unexplained",
        residual=residual,
        cost=Cost(1),
        notes=(f"silent outputs: {sources.exact} of {batch} examples are solved from them",),
    )
