"""Exact inversion of convolutional networks: features of each example by linear algebra, then its image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.activations import (
    CLOSE,
    PARTS,
    Imaging,
    most_evaluations,
)
from leakgauge.analytic.convolutions.batch_images import BatchImaging
from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.beginning import begin, descent_of, why_none_begins
from leakgauge.analytic.convolutions.cost import usual_updates
from leakgauge.analytic.convolutions.findings import describe, tells_the_input, unread_note
from leakgauge.analytic.convolutions.first_color import first_color
from leakgauge.analytic.convolutions.fitted_update import in_model_type
from leakgauge.analytic.convolutions.gradient_below import GradientBelow, gradient_below
from leakgauge.analytic.convolutions.image_terms import terms_of, unsure_terms
from leakgauge.analytic.convolutions.joint_descent import told_labels
from leakgauge.analytic.convolutions.linear_start import LinearStart
from leakgauge.analytic.convolutions.noisy_beginning import begin_unsure
from leakgauge.analytic.convolutions.observed import (
    draws_at_random,
    errors_of,
    not_finite,
    read_problem,
)
from leakgauge.analytic.convolutions.pool_descent import descend_below_pools
from leakgauge.analytic.convolutions.problem import Problem
from leakgauge.analytic.convolutions.search_state import Images
from leakgauge.analytic.convolutions.terms import Term
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
    unit_shape,
)
from leakgauge.core.pulse import Beat, Pulse
from leakgauge.core.ranges import Count
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.inversion.search.judgment import residual_of, status_of

READING = 0.3
"""Fraction of the progress for the algebra. The images take the rest."""
BEATS = 20
"""Number of beats of a usual search for the beginning, and of a usual descent."""
AMBIGUOUS = (
    "not certified: other images may have the recovered features, since layers in front of them may lose a part of "
    "the image"
)
"""The note on images that do not follow from an injective affine map of the input."""
UNSURE_ROUNDS = 2
"""Largest number of starts of an image whose activations have errors."""
ROUGH = 0.2
"""Standard deviation of the values of random images, around 1/2."""
SMALL = 1e-3
"""Objective below which an image shows its example, and not a local minimum."""


@dataclass(frozen=True, kw_only=True)
class ShiftConsistency(BaseAttack):
    r"""Recover each example's features from gradients of convolutions by linear algebra, then its image.

    Use it on convolutional networks with ReLU, such as residual networks, also for batches in which
    all labels are equal. It needs neither labels nor a search for them. It works as long as a late
    convolution has more output channels than the batch has positions there, or more input channels
    than places. Other layers may read its input, too, as in a DenseNet. For a batch of up to about
    four, a mean over positions in front of the last layer is enough.

    The gradient of a convolution's weight is :math:`\partial L / \partial W = \Delta V`. Row p of V
    is the patch :math:`v_p` that position p reads. All patches lie in the row space of the gradient,
    and they overlap. So the inputs u of the examples span the null space of a linear operator:

    .. math::

        \min_{\|u\| = 1} \; \sum_p \|(1 - \Pi) \, v_p(u)\|^2

    Here :math:`\Pi` projects on the row space. The attack then goes on in four steps.

    1. Behind a ReLU, the examples are the nonnegative vectors of this space with the most zeros.
    2. The gradient of the last layer tells the scale and the label of each.
    3. With the signal :math:`\Delta` of the layers behind known, the input of each layer below solves
       linear equations, as long as these determine it. The misfit shows wrong bits of ReLU masks.
       A max pool sends each signal to one place. The gradient below it tells places and input together.
    4. L-BFGS, then Levenberg-Marquardt steps find the image of each example that has the activations
       of the earliest layers read.

    The attack estimates the error of the update. It knows the noise of a known defense, and sees number
    formats and entries that were not sent. Singular values beyond the batch's positions show the rest.
    With errors above rounding, it fits inputs and signals of a layer together. It weighs layers by
    their expected errors, and ends the descent where masks become unsure. The factor of each example
    is free, so clipping changes nothing. Several local steps count as one gradient at a model on the
    way. The last layer's gradient tells which.

    A result is certified only if the input of the first convolution was read, or another injective
    affine map of the image. Behind that, a layer may lose a part of the image, so the attack claims
    no more than a match.

    Args:
        steps: Number of steps of L-BFGS in each of five stages, at least 1.
        rounds: Largest number of starts, at least 1, of an image that stays in a local minimum.

    References:
        Ours. We know of no publication of the null space. The descent from a known signal is from
        Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021. arXiv:2010.07733.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(16, 48, 3, padding=1),
        ...     nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
        ... )
        >>> observation = lg.examples.observation(batch_size=2, model=model)
        >>> found = lg.attacks.ShiftConsistency(steps=20)(observation, seeds=lg.Seeds(0))
        >>> found.status
        <Status.CERTIFIED: 'certified'>
    """

    steps: Count = 30
    rounds: Count = 2

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        observation = in_model_type(observation)
        random = draws_at_random(observation)
        if random is not None:
            return Inapplicable(
                f"layer {random!r} draws random numbers in each pass, which are not known"
            )
        bad = not_finite(observation)
        if bad is not None:
            return Inapplicable(f"the update holds values that are not finite, in {bad!r}")
        problem = read_problem(as_one_gradient(observation))
        if isinstance(problem, Inapplicable):
            return problem
        reason = why_none_begins(problem)
        if reason is not None:
            return Inapplicable(reason)
        return Plan(
            evaluations=self.most,
            search=partial(self.search, observation, problem),
            expected=usual_updates(problem.network, problem.count, steps=self.steps),
        )

    @property
    def most(self) -> int:
        """Largest number of evaluations: those of the images, and one of the update."""
        return self.rounds * most_evaluations(self.steps) + 1

    def search(
        self, observation: Observation, problem: Problem, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        """Return the images of all examples."""
        errors = errors_of(observation, problem)
        generator = seeds.generator("span")
        pulse = Pulse(progress, usual=BEATS)
        pulse.part(READING / 2)
        problem = replace(problem, beat=pulse)
        if errors is None:
            found = begin(problem, generator=generator)
        else:
            problem, found = begin_unsure(observation, problem, errors, generator)
        if isinstance(found, Inapplicable):
            return report_nothing_found(observation, Status.INAPPLICABLE, found.reason)
        pulse.part(READING)
        descent = descent_of(problem, found, pulse)
        descent.errors = errors
        descent.run()
        if errors is None and not mixes(problem.network):
            rough = seeds.generator("rough")
            descend_below_pools(descent, partial(rough_values, observation, problem, rough, pulse))
        notes = (found.note, *describe(descent), *unread_note(problem))
        unique = tells_the_input(observation, problem, descent)
        labels = partial(told_labels, problem, found, descent)
        finish = partial(conclude, observation, labels, notes, unique)
        if errors is None:
            terms, rounds, floor = terms_of(observation, problem, descent), self.rounds, 0.0
        else:
            weighted = unsure_terms(observation, problem, descent, found)
            # If no start can come close to 0, all rounds would be spent.
            most = self.rounds if weighted.floor <= CLOSE else UNSURE_ROUNDS
            terms, rounds, floor = weighted.terms, min(self.rounds, most), weighted.floor
        known = (terms, floor, gradient_below(descent))
        return finish(self.images(observation, problem, known, rounds, seeds, pulse, finish))

    def images(
        self,
        observation: Observation,
        problem: Problem,
        known: tuple[Sequence[Term], float, GradientBelow | None],
        rounds: int,
        seeds: Seeds,
        pulse: Pulse,
        finish: Callable[[Images], Reconstruction],
    ) -> Images:
        """Return the image of each example, from its terms and their floor. Each evaluation is a beat."""
        stage, domain = (1 - READING) / (PARTS * rounds), observation.domain
        pulse.part(READING + stage, usual=self.steps)

        def tell(fraction: float, images: Images) -> None:
            whole = READING + (1 - READING) * fraction + stage
            best = torch.enable_grad()(partial(finish, images))
            pulse.part(min(whole, 1.0), evaluations=images.evaluations, best=best)

        imaging = (BatchImaging if mixes(problem.network) else Imaging)(
            network=problem.network,
            enter=domain.from_unit,
            terms=known[0],
            floor=known[1],
            below=known[2],
            shape=tuple(unit_shape(domain)),
            like=torch.zeros((), dtype=torch.float32),
            steps=self.steps,
            tell=tell,
            beat=pulse,
            color=first_color(problem, domain.from_unit, unit_shape(domain)),
        )
        with seeds.isolated("image"):
            generator = seeds.generator("image")
            return imaging.run(problem.count, generator=generator, rounds=rounds)


def rough_values(
    observation: Observation,
    problem: Problem,
    generator: torch.Generator,
    beat: Beat,
    node: fx.Node,
    behind: fx.Node,
    known: Tensor,
) -> Iterator[Tensor]:
    """Yield rough values of a node: what known values behind it tell, and those of random images."""
    network, enter = problem.network, observation.domain.from_unit
    shape = tuple(unit_shape(observation.domain))
    told = LinearStart(network, enter, shape, generator, beat).value(node, behind, known)
    if told is not None:
        yield told
    while True:
        draws = torch.randn((problem.count, *shape), generator=generator, dtype=torch.float64)
        unit = (0.5 + ROUGH * draws).clamp(0, 1)
        with torch.no_grad():
            yield network.evaluate([node], {network.entry: enter(unit)})[node]


def conclude(
    observation: Observation,
    labels: Callable[[Tensor], Tensor],
    notes: tuple[str, ...],
    unique: bool,
    images: Images,
) -> Reconstruction:
    """Return the reconstruction, with the status that the residual of its update allows."""
    like = observation.update.like
    unit = images.unit.to(like).clamp(0, 1)
    # An image outside of the domain is shown as its nearest point, which has other activations.
    moved = (images.unit - images.unit.clamp(0, 1)).abs().flatten(1).amax(1)
    shown = (images.objectives < SMALL) & (moved < SMALL)
    found = Reconstruction(
        inputs=observation.domain.from_unit(unit),
        targets=labels(observation.domain.from_unit(images.unit)).to(like.device),
        found=torch.ones(len(unit), dtype=torch.bool),
        status=Status.UNCONVERGED,
        objectives=tuple(float(v) for v in images.objectives[:1] if math.isfinite(float(v))),
        cost=Cost(images.evaluations + 1),
        notes=notes,
    )
    residual = residual_of(observation, found)
    proven = unique and bool((images.objectives < CLOSE).all())
    if not unique:
        found = replace(found, notes=(*notes, AMBIGUOUS))
    status = status_of(observation, unit, found.targets, residual, proven=proven)
    message = (
        f"recovered the features of all examples, and images that have them: {int(shown.sum())} of {len(unit)}; "
        f"the update is matched to {residual:.2g} of its norm"
    )
    return replace(found, status=status, residual=residual, message=message)
