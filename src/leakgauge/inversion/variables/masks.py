"""Dropout masks as further variables of each example, in the order in which the forward pass draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from leakgauge.core import Inapplicable, Observation, trainable, unit_shape
from leakgauge.federated.isolation.probing import probing, single
from leakgauge.federated.layers.dropout import Masked, drawn_masks, tensor_like_inputs, with_forward
from leakgauge.federated.training.fedavg import FedAvg
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.rounds import Rounds
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares, Term
from leakgauge.inversion.variables.wide import Beside, Layout, WideDomain


@dataclass(frozen=True)
class Masks(Layout):
    """The layout of examples with their dropout masks.

    A mask of shape (k, ...) for one example has the shape (B k, ...) for a batch of B.

    Args:
        inputs: Shape of an input.
        shapes: Shape of each mask for one example.
        rates: Dropout probability p of each mask.
    """

    shapes: tuple[tuple[int, ...], ...]
    rates: tuple[float, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of values of the input, then of each mask, for one example."""
        return [math.prod(self.inputs), *map(math.prod, self.shapes)]

    @property
    def extra(self) -> int:
        return sum(self.sizes[1:])

    def each(self, wide: Tensor) -> list[Tensor]:
        """Return the masks, each in the shape that the forward pass draws."""
        parts = torch.split(wide, self.sizes, dim=1)[1:]
        pairs = zip(parts, self.shapes, strict=True)
        return [part.reshape(-1, *shape[1:]) for part, shape in pairs]

    def keep(self, like: Tensor) -> Tensor:
        """Return the probability 1 - p of each of the m mask values to be kept, (m,)."""
        pairs = zip(self.rates, self.sizes[1:], strict=True)
        return torch.cat([like.new_full((size,), 1 - p) for p, size in pairs])


def masks_of(observation: Observation) -> Masks | Inapplicable:
    """Return the masks of the model's forward pass, or the reason why they cannot be variables."""
    training = observation.training
    calls = drawn_masks(observation, 2)
    if not calls:
        return Inapplicable("the model has no active dropout layer")
    if isinstance(training, Rounds):
        return Inapplicable("each round draws new masks, and the search has one set of masks")
    if isinstance(training, FedAvg) and training.epochs > 1:
        return Inapplicable(
            f"each of {training.epochs} local epochs draws new masks, and the search has one set of masks"
        )
    more, shapes = drawn_masks(observation, 3), []
    for call, other in zip(calls, more, strict=True):
        if call.shape is None or other.shape is None:
            return Inapplicable(
                f"{call.function} draws its mask by itself, so the mask cannot be given from outside"
            )
        one, rest = divmod(call.shape[0], 2)
        if rest or (other.shape[0], other.shape[1:]) != (3 * one, call.shape[1:]):
            return Inapplicable(
                f"a mask of shape {call.shape} for 2 examples has no separate values for each example"
            )
        shapes.append((one, *call.shape[1:]))
    found = Masks(unit_shape(observation.domain), tuple(shapes), tuple(call.p for call in calls))
    if _random(observation, found):
        return Inapplicable("the model draws random numbers other than dropout masks")
    return found


def _random(observation: Observation, masks: Masks) -> bool:
    """Return whether the model's outputs still depend on random draws when its masks are given."""
    widened, like = widen(observation, masks), tensor_like_inputs(observation)
    generator = torch.Generator().manual_seed(0)  # Any points of the domain serve as probes.
    unit = torch.rand((2, *unit_shape(widened.domain)), generator=generator).to(like)
    wide = widened.domain.from_unit(unit)
    answers = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]), torch.no_grad(), probing():
            torch.default_generator.manual_seed(seed)
            answers.append(single(stateless(widened.model, trainable(widened.model), wide)))
    return not torch.equal(*answers)


@dataclass(frozen=True)
class _WideForward:
    """A forward pass of wide examples: inputs with their masks."""

    forward: Any
    masks: Masks

    def __call__(self, wide: Tensor) -> Any:
        with Masked(self.masks.each(wide)):
            return self.forward(self.masks.input_of(wide).clone())


def widen(observation: Observation, masks: Masks) -> Observation:
    """Return the observation with the adversary's copy of the model, which takes wide examples and draws nothing."""
    return replace(
        observation,
        model=with_forward(observation.model, partial(_WideForward, masks=masks)),
        domain=WideDomain(observation.domain, masks),
    )


Start = Literal["bernoulli", "mean"]
"""Start of the masks: drawn as a client draws them, or at their mean."""


@dataclass(frozen=True, kw_only=True)
class WithMasks(Beside):
    """The variables of `base`, then the masks, which each step keeps in [0, 1].

    Args:
        base: The parametrization of the inputs.
        layout: The layout of inputs and masks.
        begin: Start of the masks: "bernoulli" draws them as a client does, "mean" sets all to 1 -
            p.
    """

    layout: Masks
    begin: Start = "bernoulli"

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return variables (B, n + m), drawn from `generator`."""
        assert isinstance(observation.domain, WideDomain), "widen() makes the observation"
        narrow = replace(observation, domain=observation.domain.base)
        inputs = self.base.start(narrow, generator)
        keep = self.layout.keep(inputs).expand(len(inputs), -1)
        if self.begin == "bernoulli":
            chance = torch.rand(keep.shape, generator=generator).to(inputs)
            keep = (chance < keep).to(inputs)
        return self.layout.joined(inputs, keep)

    def project(self, variables: Tensor) -> None:
        super().project(variables)
        self.layout.rest_of(variables).clamp_(0, 1)


@dataclass(frozen=True)
class MaskMean(LeastSquares):
    r"""Prior: each mask keeps about as many values as a drawn mask.

    .. math::

        \frac{1}{B} \sum_{i=1}^{B} \sum_l \left( \operatorname{mean}(m_{il}) - (1 - p_l) \right)^2

    Here :math:`m_{il}` is mask :math:`l` of example :math:`i`, and :math:`p_l` its dropout
    probability.
    """

    masks: Masks

    local: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        parts = torch.split(candidate.unit, self.masks.sizes, dim=1)[1:]
        gaps = [part.mean(1) - (1 - p) for part, p in zip(parts, self.masks.rates, strict=True)]
        return torch.stack(gaps).flatten() / math.sqrt(len(candidate.unit))


@dataclass(frozen=True)
class OfMasks(Term):
    """A local term that is evaluated on the masks (B, m) alone."""

    term: Term
    masks: Masks

    local: ClassVar[bool] = True

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.term(replace(candidate, unit=self.masks.rest_of(candidate.unit)))

    def residuals(self, candidate: Candidate) -> Tensor | None:
        return self.term.residuals(replace(candidate, unit=self.masks.rest_of(candidate.unit)))
