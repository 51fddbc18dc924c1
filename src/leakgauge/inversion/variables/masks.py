"""Dropout masks as further variables of each example, in the order in which the forward pass asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from leakgauge.core import Inapplicable, Observation, trainable, unit_shape
from leakgauge.federated.isolation.probing import probing, single
from leakgauge.federated.layers.dropout import Masked, drawn_masks, taken, with_forward
from leakgauge.federated.training.fedavg import FedAvg
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.rounds import Rounds
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares, Term
from leakgauge.inversion.variables.wide import Beside, Layout, WideDomain


@dataclass(frozen=True)
class Masks(Layout):
    """Masks beside an input: for each its shape and its p.

    A mask of shape (k, *rest) for one example is (B k, *rest) for a batch of B.
    """

    shapes: tuple[tuple[int, ...], ...]
    rates: tuple[float, ...]

    @property
    def sizes(self) -> list[int]:
        """Values of the input, then of each mask, for one example."""
        return [math.prod(self.inputs), *map(math.prod, self.shapes)]

    @property
    def extra(self) -> int:
        return sum(self.sizes[1:])

    def each(self, wide: Tensor) -> list[Tensor]:
        """The masks, each in the shape that the forward pass asks for."""
        parts = torch.split(wide, self.sizes, dim=1)[1:]
        pairs = zip(parts, self.shapes, strict=True)
        return [part.reshape(-1, *shape[1:]) for part, shape in pairs]

    def keep(self, like: Tensor) -> Tensor:
        """1 - p of each value of all masks, (m,)."""
        pairs = zip(self.rates, self.sizes[1:], strict=True)
        return torch.cat([like.new_full((size,), 1 - p) for p, size in pairs])


def masks_of(observation: Observation) -> Masks | Inapplicable:
    """Return the masks of the model's forward pass, or the reason why they cannot be variables."""
    training = observation.training
    calls = drawn_masks(observation, 2)
    if not calls:
        return Inapplicable("no active dropout layer")
    if isinstance(training, Rounds):
        return Inapplicable("each round has masks of its own")
    if isinstance(training, FedAvg) and training.epochs > 1:
        return Inapplicable(f"each of {training.epochs} local epochs has masks of its own")
    more, shapes = drawn_masks(observation, 3), []
    for call, other in zip(calls, more, strict=True):
        if call.shape is None or other.shape is None:
            return Inapplicable(f"{call.function} draws a mask that cannot be given from outside")
        one, rest = divmod(call.shape[0], 2)
        if rest or (other.shape[0], other.shape[1:]) != (3 * one, call.shape[1:]):
            return Inapplicable(
                f"a mask of shape {call.shape} for 2 examples has no leading axis of examples"
            )
        shapes.append((one, *call.shape[1:]))
    found = Masks(unit_shape(observation.domain), tuple(shapes), tuple(call.p for call in calls))
    if _random(observation, found):
        return Inapplicable("the model draws more at random than dropout masks")
    return found


def _random(observation: Observation, masks: Masks) -> bool:
    """Whether the network still answers by chance where its masks are given."""
    seen, like = widen(observation, masks), taken(observation)
    generator = torch.Generator().manual_seed(0)  # probes of a map: any points serve
    unit = torch.rand((2, *unit_shape(seen.domain)), generator=generator).to(like)
    wide = seen.domain.from_unit(unit)
    answers = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]), torch.no_grad(), probing():
            torch.default_generator.manual_seed(seed)
            answers.append(single(stateless(seen.model, trainable(seen.model), wide)))
    return not torch.equal(*answers)


@dataclass(frozen=True)
class _WideForward:
    """A forward pass of wide examples."""

    forward: Any
    masks: Masks

    def __call__(self, wide: Tensor) -> Any:
        with Masked(self.masks.each(wide)):
            return self.forward(self.masks.input_of(wide).clone())


def widen(observation: Observation, masks: Masks) -> Observation:
    """The observation with the adversary's own copy of the model, which takes wide examples and draws nothing."""
    return replace(
        observation,
        model=with_forward(observation.model, partial(_WideForward, masks=masks)),
        domain=WideDomain(observation.domain, masks),
    )


Start = Literal["bernoulli", "mean"]


@dataclass(frozen=True, kw_only=True)
class WithMasks(Beside):
    """The variables of `base`, then the masks themselves, which a step leaves in [0, 1].

    They start as a client draws them, or all at their mean 1 - p.
    """

    layout: Masks
    begin: Start = "bernoulli"

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Variables (B, n + m), drawn from `generator`."""
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
    """Mean over examples of sum_l (mean(m_l) - (1 - p_l))^2: each mask keeps about as much as a drawn one."""

    masks: Masks

    local: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        parts = torch.split(candidate.unit, self.masks.sizes, dim=1)[1:]
        gaps = [part.mean(1) - (1 - p) for part, p in zip(parts, self.masks.rates, strict=True)]
        return torch.stack(gaps).flatten() / math.sqrt(len(candidate.unit))


@dataclass(frozen=True)
class OfMasks(Term):
    """A local term of the masks alone, (B, m)."""

    term: Term
    masks: Masks

    local: ClassVar[bool] = True

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.term(replace(candidate, unit=self.masks.rest_of(candidate.unit)))

    def residuals(self, candidate: Candidate) -> Tensor | None:
        return self.term.residuals(replace(candidate, unit=self.masks.rest_of(candidate.unit)))
