"""Activations of a convolutional network, recovered layer by layer from one gradient, and the image that has them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.peeling import Known, peel
from leakgauge.attacks.recursion import Beginning, Recursion, recursion_of
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    image_grid,
    scale_progress,
)
from leakgauge.core.progress import no_objective
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.inversion import (
    LBFGS,
    FeatureMatch,
    FixedLabels,
    GradientMatching,
    InRange,
    Parametrization,
    Smoothness,
    Spectral,
    Term,
    WarmStart,
)
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.search.engine import Ready, ready

FITS = 1e-3
"""Largest relative misfit of a layer's gradient at which the recovered input of the layer is believed."""
ZERO = 1e-5
"""Fraction of the largest activation below which an activation counts as 0."""
AMPLE = 1.25
"""Known activations for each value of the image, above which a prior only distorts the image."""
RESTARTS = 3
"""Largest number of descents if the known activations should determine the image."""
CLOSE = 1e-6
"""Squared relative distance of the activations below which no descent is stuck in a local minimum."""
EXACT = 1e-9
"""Squared relative distance of the activations at which a descent ends. Smaller ones are rounding errors of float32."""


@dataclass(frozen=True, kw_only=True)
class Peeling(BaseAttack):
    r"""Recover one image through convolutions, ReLU and max pools, layer by layer from the output.

    Use it at batch size 1 on convolutional networks in which ReLU or max pools stall gradient
    matching. The image is exact if the gradient of each layer's weight determines the layer's
    input.

    The attack goes from the output toward the image in three steps.

    1. A linear layer with a bias gives its input,
       :math:`h = (\partial L / \partial W_i) / (\partial L / \partial b_i)`.
    2. A convolution's gradient gives its input :math:`a`, if :math:`\partial L / \partial z` at its
       output :math:`z` is known.
    3. L-BFGS finds an image :math:`x` with the known activations :math:`a`:

    .. math::

        \min_x \; \frac{\|a(x) - a\|^2}{\|a - a(\text{gray})\|^2} + \text{priors}

    Here :math:`a(x)` are the activations of :math:`x`, and gray is the image of constant 1/2.

    A max pool passes values on, but not the places that they came from. There, step 3 first gives a
    rough image from the activations known so far, and step 2 takes the places from this image. One
    or two layers nearer to the image, many times more activations than pixels are known. Step 3
    then ends at the image itself.

    Args:
        rough: Number of steps, at least 1, for a rough image from few activations. The default is
            ours.
        steps: Number of steps, at least 1, for an image that the activations determine. The default
            is ours.
        smoothness: Weight of the smoothness prior on rough images, at least 0. The default is ours.

    References:
        Ours. Step 1 is from Phong, Aono, Hayashi, Wang, Moriai. Privacy-Preserving Deep Learning
        via Additively Homomorphic Encryption. IEEE Transactions on Information Forensics and
        Security 13(5), 2018. The recursion is from Zhu, Blaschko. R-GAP: Recursive Gradient Attack
        on Privacy. ICLR 2021. arXiv:2010.07733.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.data.digits().domain
        >>> model = lg.models.build(lg.models.fedavg_cnn, domain, 10)  # ReLU and max pools
        >>> observation = lg.examples.observation(batch_size=1, model=model)
        >>> found = lg.attacks.Peeling()(observation, seeds=lg.Seeds(0))
        >>> found.status
        <Status.CONVERGED: 'converged'>
    """

    rough: Count = 80
    steps: Count = 600
    smoothness: NonNegative = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if image_grid(observation.domain) is None:
            return Inapplicable(f"it recovers images; found a {observation.domain.kind}")
        found = recursion_of(observation)
        if isinstance(found, Inapplicable):
            return found
        # The objective on activations is set when the activations are known.
        none = torch.zeros(0, dtype=torch.long)
        descent = ready(self.matching(self.prior(), Spectral(), none, self.steps), observation)
        if isinstance(descent, Inapplicable):
            return descent
        pools = sum(layer.pool is not None for layer in found.chain.layers)
        return Plan(evaluations=self.most(pools), search=partial(self.search, found, descent))

    def prior(self, *, ample: bool = False) -> Term:
        """Return the prior on the image. ample: whether the known activations alone determine the image."""
        if ample or self.smoothness == 0:
            return InRange()
        return InRange() + self.smoothness * Smoothness()

    def matching(
        self, objective: Term, start: Parametrization, labels: Tensor, steps: int
    ) -> GradientMatching:
        """Return the search for an image with known activations."""
        return GradientMatching(
            objective=objective,
            parametrization=start,
            labels=FixedLabels(labels),
            descent=LBFGS(steps=steps, history=100, line_search="strong_wolfe"),
            tolerance=EXACT,
        )

    @property
    def planned(self) -> int:
        """Return the number of evaluations that the progress of a run expects: a quarter more than its steps."""
        return (self.rough + RESTARTS * self.steps) * 5 // 4

    def most(self, pools: int) -> int:
        """Return the largest number of evaluations for a chain with this number of max pools."""
        rough, last = (
            self.matching(self.prior(), Spectral(), torch.zeros(0), steps).budget
            for steps in (self.rough, self.steps)
        )
        # One image is searched before each pool, and one at the end. An image that is read instead
        # is compared once.
        return (pools + 1) * max(rough, RESTARTS * last) + 1

    def search(
        self,
        found: Recursion,
        descent: Ready,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the image that has the recovered activations."""
        beginnings = found.beginnings()
        labels = found.label_of(beginnings[0], seeds) if beginnings else None
        if labels is None:
            reason = "no label explains the gradient of the last layer"
            return report_nothing_found(found.observation, Status.UNCONVERGED, reason)
        with seeds.isolated("peeling"):
            return _Peel(self, found, descent, labels, seeds, progress).run(beginnings[0])


class _Peel:
    """The state of one run, with the images found so far."""

    def __init__(
        self,
        attack: Peeling,
        recursion: Recursion,
        descent: Ready,
        labels: Tensor,
        seeds: Seeds,
        progress: Progress,
    ) -> None:
        self.attack, self.recursion, self.descent = attack, recursion, descent
        self.observation, self.chain = recursion.observation, recursion.chain
        self.labels, self.seeds, self.progress = labels, seeds, progress
        self.clock = time.perf_counter()
        self.notes: list[str] = []
        self.images: list[Reconstruction] = []
        self.evaluations, self.done = 0, 0.0

    def run(self, start: Beginning) -> Reconstruction:
        """Return the best image, after recovering layer inputs as far as the gradient determines them."""
        known, imagined = Known(start.place, start.features, start.delta), -1
        while known.place > 0:
            if self.chain.layers[known.place - 1].pool is not None:
                self.imagine(known)
                imagined = known.place
                if self.matched:
                    break
            deeper = self.peel(known)
            if isinstance(deeper, Inapplicable):
                self.notes.append(f"the recursion stopped: {deeper}")
                break
            known = deeper
        if known.place == 0:
            self.read(known)
        elif imagined != known.place:
            self.imagine(known)
        return self.best(self.images)

    @property
    def matched(self) -> bool:
        """Return whether the last image explains the update."""
        residual = self.images[-1].residual
        return residual is not None and residual <= MATCHED

    def peel(self, known: Known) -> Known | Inapplicable:
        """Return the input of the next layer toward the image, or the reason why its gradient does not determine it."""
        layer = self.chain.layers[known.place - 1]
        rough = None
        if layer.pool is not None:
            rough = self.observation.domain.to_unit(self.images[-1].inputs).double().cpu()
        dweight, noise = self.recursion.dweight(layer), self.recursion.rounding(layer)
        deeper = peel(self.chain, known, dweight, rough, noise=noise)
        if isinstance(deeper, Inapplicable):
            return deeper
        if deeper.misfit > FITS:
            return Inapplicable(
                f"no input of {layer.name!r} fits its gradient (relative misfit {deeper.misfit:.0e})"
            )
        self.notes.append(
            f"input of {layer.name!r}: it fits the layer's gradient to a relative misfit of {deeper.misfit:.0e}"
        )
        return deeper

    def imagine(self, known: Known) -> None:
        """Search for an image with these activations and keep it.

        If there are enough activations to determine the image, several descents run. The best one
        counts.
        """
        values = torch.Size(self.observation.domain.shape).numel()
        # Only an activation above 0 counts as an equation. One that a ReLU set to 0 says only that its
        # input is not positive, and is known up to rounding only.
        count = int((known.x > ZERO * known.x.abs().max()).sum())
        ample = count >= AMPLE * values
        found: list[Reconstruction] = []
        for k, start in enumerate(self.starts(ample)):
            seeds = self.seeds.child(f"{known.place}/{k}")
            found.append(self.search_image(known, start, ample, [*self.images, *found], seeds))
            if objective_of(found[-1]) <= CLOSE:
                break
        best = min(found, key=objective_of)
        trajectory = tuple(snapshot for image in found for snapshot in image.trajectory)
        spent = Cost(sum(image.cost.evaluations for image in found))
        self.images.append(replace(best, trajectory=trajectory, cost=spent))
        self.notes.append(
            f"image from the input of {self.chain.layers[known.place].name!r}: {count} known activations for "
            f"{values} values of the image; {best.message}"
        )

    def starts(self, ample: bool) -> list[Parametrization]:
        """Return the starts of the descents: the last image, if any, and random ones.

        There is a single start if priors decide the image.
        """
        fresh = Spectral(center=0.5, noise=0.1)
        if not self.images:
            return [fresh] * (RESTARTS if ample else 1)
        unit = self.observation.domain.to_unit(self.images[-1].inputs)
        last = WarmStart(base=Spectral(center=0.5), initial=unit)
        return [last, *[fresh] * (RESTARTS - 1)] if ample else [last]

    def search_image(
        self,
        known: Known,
        start: Parametrization,
        ample: bool,
        before: list[Reconstruction],
        seeds: Seeds,
    ) -> Reconstruction:
        """Return the image of one descent.

        Args:
            known: The known activations.
            start: The start of the descent.
            ample: Whether the activations alone determine the image.
            before: The images so far.
            seeds: The seeds of this descent.
        """
        attack = self.attack
        steps = attack.steps if ample else attack.rough
        layer, activations = self.chain.layers[known.place].name, known.x.reshape(1, -1)
        objective = FeatureMatch.of_one(self.observation, layer, activations) + attack.prior(
            ample=ample
        )
        matching = attack.matching(objective, start, self.labels, steps)
        spent, since = self.evaluations, time.perf_counter() - self.clock

        def placed(image: Reconstruction) -> Reconstruction:
            trajectory = tuple(
                replace(s, evaluations=s.evaluations + spent, seconds=s.seconds + since)
                for s in image.trajectory
            )
            return replace(image, trajectory=trajectory)

        # With several pools there may be more descents than planned.
        part = min(steps * 5 / 4 / attack.planned, 1 - self.done)
        reporting = scale_progress(
            self.progress,
            self.done,
            part,
            evaluations=spent,
            finish=lambda image: self.best([*before, placed(image)]),
            best=partial(self.best, before) if before else None,
            objective=no_objective,
        )
        self.done += part
        descent = replace(self.descent, matching=matching).with_labels(self.labels)
        image = descent.search(seeds, reporting)
        self.evaluations += image.cost.evaluations
        return placed(image)

    def read(self, known: Known) -> None:
        """Keep the image given by the input of the first layer."""
        unit, inputs = self.recursion.inputs(known.x)
        residual = self.recursion.residual(unit, self.labels)
        self.evaluations += 1
        self.images.append(
            Reconstruction(
                inputs=inputs,
                targets=self.labels,
                found=torch.ones(1, dtype=torch.bool),
                status=Status.CONVERGED if residual <= MATCHED else Status.UNCONVERGED,
                message=f"the update is matched to {residual:.2g} of its norm",
                residual=residual,
                cost=Cost(1),
            )
        )

    def best(self, images: list[Reconstruction]) -> Reconstruction:
        """Return the image that matches the update best, with the trajectories of all images."""
        chosen = min(images, key=residual_of)
        trajectory = tuple(snapshot for image in images for snapshot in image.trajectory)
        notes = (*self.notes, *chosen.notes)
        return replace(chosen, trajectory=trajectory, notes=notes, cost=Cost(self.evaluations))


def objective_of(image: Reconstruction) -> float:
    """Return the objective of a descent's result, infinite if no iterate had a finite one."""
    return image.objectives[0] if image.objectives else math.inf


def residual_of(image: Reconstruction) -> float:
    """Return the residual, infinite if there is none."""
    return math.inf if image.residual is None else image.residual
