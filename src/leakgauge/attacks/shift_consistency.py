"""Exact inversion of convolutional networks: features of each example by linear algebra, then its image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, fx, nn

from leakgauge.analytic.convolutions.activations import (
    CLOSE,
    PARTS,
    Images,
    Imaging,
    most_evaluations,
)
from leakgauge.analytic.convolutions.batch_images import BatchImaging
from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.beginning import begin, descent_of, why_none_begins
from leakgauge.analytic.convolutions.cost import usual_updates
from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.noisy_beginning import begin_with_errors, refined_spans
from leakgauge.analytic.convolutions.noisy_terms import Weighted, weighted_terms
from leakgauge.analytic.convolutions.pool_descent import descend_below_pools
from leakgauge.analytic.convolutions.problem import Beginning, Problem, features_node
from leakgauge.analytic.convolutions.propagation import is_relu
from leakgauge.analytic.convolutions.terms import Term
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.analytic.convolutions.update_error import EXACT, UpdateError, update_error
from leakgauge.analytic.last_layer import HeadGradient, last_layer, rounding, unit_ratio
from leakgauge.analytic.linear import inverse_of_affine
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
from leakgauge.core.pulse import Pulse
from leakgauge.core.ranges import Count
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.federated.isolation.probing import spread
from leakgauge.federated.training.local_steps import as_one_gradient, interpolate
from leakgauge.inversion.search.judgment import residual_of, status_of

READING = 0.3
"""Fraction of the progress for the algebra. The images take the rest."""
BEATS = 20
"""Number of beats of a usual search for the beginning, and of a usual descent."""
LAYERS = 2
"""Number of layers, the earliest ones that were read, whose activations the image must have."""
AMPLE = 2.0
"""Known values above 0, for each value of the image, from which on no open equations are needed."""
AMBIGUOUS = (
    "not certified: other images may have the recovered features, since layers in front of them may lose a part of "
    "the image"
)
"""The note on images that do not follow from an injective affine map of the input."""
MODELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Fractions of the first model, mixed with the last one, that are tried for several local steps."""
DRIFT = 4.0
"""Expected error of an input over local steps, in units of the last layer's misfit."""
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
    convolution has more output channels than the batch has positions there. For a batch of up to
    about four, a mean over positions in front of the last layer is enough.

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
        if draws_dropout(observation):
            return Inapplicable("the model has dropout in train mode, whose draws are not known")
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
            descend_below_pools(descent, partial(rough_values, observation, problem, rough))
        notes = (found.note, *describe(descent), *unread_note(problem))
        unique = tells_the_input(observation, problem, descent)
        finish = partial(conclude, observation, found, notes, unique)
        if errors is None:
            terms, rounds, floor = terms_of(observation, problem, descent), self.rounds, 0.0
        else:
            weighted = unsure_terms(observation, problem, descent, found)
            # If no start can come close to 0, all rounds would be spent.
            most = self.rounds if weighted.floor <= CLOSE else UNSURE_ROUNDS
            terms, rounds, floor = weighted.terms, min(self.rounds, most), weighted.floor
        known = (terms, floor)
        return finish(self.images(observation, problem, known, rounds, seeds, pulse, finish))

    def images(
        self,
        observation: Observation,
        problem: Problem,
        known: tuple[Sequence[Term], float],
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
            shape=tuple(unit_shape(domain)),
            like=torch.zeros((), dtype=torch.float32),
            steps=self.steps,
            tell=tell,
            beat=pulse,
        )
        with seeds.isolated("image"):
            generator = seeds.generator("image")
            return imaging.run(problem.count, generator=generator, rounds=rounds)


def rough_values(
    observation: Observation, problem: Problem, generator: torch.Generator, node: fx.Node
) -> Tensor:
    """Return the values of a node for random images."""
    shape = (problem.count, *unit_shape(observation.domain))
    draws = torch.randn(shape, generator=generator, dtype=torch.float64)
    unit = (0.5 + ROUGH * draws).clamp(0, 1)
    with torch.no_grad():
        given = {problem.network.entry: observation.domain.from_unit(unit)}
        return problem.network.evaluate([node], given)[node]


def read_problem(observation: Observation) -> Problem | Inapplicable:
    """Return the gradients of an observation, or the reason why the attack cannot use them."""
    head = last_layer(observation)
    return head if isinstance(head, Inapplicable) else problem_of(observation, head)


def not_finite(observation: Observation) -> str | None:
    """Return the name of a tensor of the update that holds NaN or infinity, or None."""
    tensors = observation.update.tensors.items()
    return next((name for name, t in tensors if not bool(t.isfinite().all())), None)


def unread_note(problem: Problem) -> tuple[str, ...]:
    """Return a note on the places of the input that the first convolution never reads."""
    first = problem.network.convolutions[0]
    unread = int((first.geometry.reads == 0).sum())
    if not unread:
        return ()
    return (
        f"{first.name!r} reads none of {unread} of its {first.geometry.places} input places: "
        "the image shows nothing private there",
    )


def draws_dropout(observation: Observation) -> bool:
    """Return whether the model draws dropout in each pass."""
    layers = (
        m for m in observation.model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)
    )
    return any(layer.training and layer.p > 0 for layer in layers)


def problem_of(observation: Observation, head: HeadGradient) -> Problem | Inapplicable:
    """Return the gradients and the network in float64, or the reason why the attack cannot use them."""
    network = trace(observation.model, observation.domain)
    if isinstance(network, Inapplicable):
        return network
    domain = observation.domain
    probe = domain.from_unit(spread(unit_shape(domain), 2, torch.zeros((), dtype=torch.float64)))
    if not network.computes(observation.model, probe, together=mixes(network)):
        return Inapplicable(
            "the model mixes the examples of a batch, or its graph holds for one batch size alone"
        )
    if not network.convolutions:
        return Inapplicable(
            "the model has no convolution with padding by zeros whose weight is a parameter"
        )
    features = features_node(network, head.head.weight)
    if features is None:
        return Inapplicable(f"the last layer, {head.name!r}, is not a linear layer of one vector")
    tensors = observation.update.map(lambda t: t.detach().double().cpu()).tensors
    unit = unit_ratio(head.layer, head.shared) * abs(head.head.scale)
    return Problem(
        network=network,
        gradients={name: t * unit for name, t in tensors.items()},
        head=head,
        features=features,
        count=observation.batch_size,
        error=rounding(head.shared).shared,
        unit=unit,
    )


def errors_of(observation: Observation, problem: Problem) -> UpdateError | None:
    """Return the errors of the gradients, or None if they are rounded to float32."""
    convolutions = problem.network.convolutions
    noise = observation.noise if observation.training.kind == "gradient" else None
    errors = update_error(
        problem.gradients,
        {c.name: problem.count * c.geometry.positions for c in convolutions},
        noise=None if noise is None else noise.std * problem.unit,
        rounding=problem.error,
    )
    if mixes(problem.network):
        return None
    named = [errors.relative([c.name]) for c in convolutions if c.name in errors.entries]
    head = errors.relative([problem.head.head.weight])
    return errors if named and max(median(named), head) > EXACT else None


def begin_unsure(
    observation: Observation, problem: Problem, errors: UpdateError, generator: torch.Generator
) -> tuple[Problem, Beginning | Inapplicable]:
    """Return the problem and the beginning of a descent under errors.

    Local steps move the weights. The inputs found are then a mean over the steps, at a model between
    the first and the last one. The last layer's gradient tells which model fits best.
    """
    spans = refined_spans(problem, errors, generator=generator)
    if observation.training.kind == "gradient":
        return problem, begin_with_errors(problem, errors, spans, generator=generator)
    best: tuple[Problem, Beginning | Inapplicable] | None = None
    for fraction in MODELS:
        trial = read_problem(interpolate(observation, fraction))
        if isinstance(trial, Inapplicable):
            continue
        trial = replace(trial, beat=problem.beat)
        begun = begin_with_errors(trial, errors, spans, generator=generator)
        if best is None or misfit_of(begun) < misfit_of(best[1]):
            best = trial, begun
    assert best is not None
    if isinstance(best[1], Beginning):
        drift = max(best[1].error, DRIFT * best[1].misfit)
        best = best[0], replace(best[1], error=drift)
    return best


def misfit_of(found: Beginning | Inapplicable) -> float:
    """Return the misfit of a beginning, infinite if there is none."""
    return math.inf if isinstance(found, Inapplicable) else found.misfit


def tells_the_input(observation: Observation, problem: Problem, descent: Descent) -> bool:
    """Return whether a value that was read is an injective affine map of the input.

    Only then one image alone has it. The layers in front of a later value may lose a part of the
    image, as a pool or a normalization does. Then other images may give the same update.
    """
    network, enter = problem.network, observation.domain.from_unit
    if mixes(network):
        # BatchNorm behind the first layer removes the contrast of the batch.
        return False

    def through(node: fx.Node, unit: Tensor) -> Tensor:
        return network.evaluate([node], {network.entry: enter(unit)})[node].flatten(1)

    return any(
        inverse_of_affine(partial(through, node), observation.domain) is not None
        for node in descent.known.values
        if node in network.varying
        and not any(map(is_relu, network.between([node], [network.entry])))
    )


def describe(descent: Descent) -> tuple[str, ...]:
    """Return notes on the layers that were read, and on the end of the descent."""
    known = descent.known.values
    read = [step for step in descent.steps if step.unknowns and step.source in known]
    bits = sum(step.repaired for step in descent.steps)
    notes = []
    if read:
        notes.append(
            f"layers whose input was recovered below: {len(read)}, down to {', '.join(read[-1].layers)} "
            f"(largest misfit {max(step.misfit for step in read):.0e}, wrong bits repaired: {bits})"
        )
    if descent.stopped:
        notes.append(f"the descent ended: {descent.stopped}")
    return tuple(notes)


def earliest(problem: Problem, descent: Descent) -> list[fx.Node]:
    """Return the nodes of the earliest activations that were read."""
    network = problem.network
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    known = (node for node in descent.known.values if node in network.varying)
    return sorted(known, key=order.__getitem__)[:LAYERS]


def unsure_terms(
    observation: Observation, problem: Problem, descent: Descent, beginning: Beginning
) -> Weighted:
    """Return the terms of the earliest activations that were read, each by its certainty."""
    nodes = earliest(problem, descent)
    unit = torch.full((1, *unit_shape(observation.domain)), 0.5, dtype=torch.float64)
    gray, white = map(observation.domain.from_unit, (unit, 2 * unit))
    return weighted_terms(
        problem.network,
        {node: descent.known.values[node] for node in nodes},
        {node: descent.unsure.get(node, beginning.error) for node in nodes},
        gray,
        2 * float((white - gray).abs().mean()),
    )


def terms_of(observation: Observation, problem: Problem, descent: Descent) -> list[Term]:
    """Return the terms that tell the images: the earliest activations that were read, and open equations."""
    network, known = problem.network, descent.known
    nodes = earliest(problem, descent)
    domain = observation.domain
    gray = torch.full((1, *unit_shape(domain)), 0.5, dtype=torch.float64)
    wanted = [*nodes, *descent.open]
    with torch.no_grad():
        plain = network.evaluate(wanted, {network.entry: domain.from_unit(gray)})
    if mixes(network):
        # A plain batch has no deviation, so BatchNorm in train mode would only show rounding errors.
        plain = {node: torch.zeros_like(value) for node, value in plain.items()}
    terms = []
    for node in nodes:
        gap = (known.values[node] - plain[node]).square().flatten(1).sum(1)
        terms.append(Term(node, known.values[node], 1 / gap.clamp_min(1e-30)))
    shown = min((known.values[node].flatten(1) > 0).sum(1).min().item() for node in nodes)
    # The masks behind open equations may have wrong bits. So they help only where values are few.
    ample = shown >= AMPLE * math.prod(unit_shape(domain))
    for node, gradients in () if ample else descent.open.items():
        partial_value = known.partial(node)
        if partial_value is not None and bool(partial_value.known.any()):
            marks = partial_value.known.to(partial_value.value)
            gap = (((partial_value.value - plain[node]) ** 2) * marks).flatten(1).sum(1)
            shape = (-1, *[1] * (marks.ndim - 1))
            terms.append(
                Term(node, partial_value.value, marks / gap.clamp_min(1e-30).reshape(shape))
            )
        if problem.count > 1 or mixes(network):
            continue
        for gradient in gradients:
            matrix, right = gradient.matrix(), gradient.right
            gap = right - matrix @ plain[node].flatten(2)[0].T
            terms.append(Term(node, right, 1 / gap.square().sum()[None], matrix))
    return terms


def conclude(
    observation: Observation,
    beginning: Beginning,
    notes: tuple[str, ...],
    unique: bool,
    images: Images,
) -> Reconstruction:
    """Return the reconstruction, with the status that the residual of its update allows."""
    like = observation.update.like
    unit = images.unit.to(like).clamp(0, 1)
    shown = images.objectives < SMALL
    found = Reconstruction(
        inputs=observation.domain.from_unit(unit),
        targets=beginning.labels.to(like.device),
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
