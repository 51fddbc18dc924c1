"""Recursive Gradient Attack on Privacy. Zhu, Blaschko: ICLR 2021. Batch 1.

At the last layer, delta = dL/dz and the input h explain dW = delta h'     (section 3.2; `output_layer`)
From there to the input, layer by layer, with z = W x + b and h = sigma(z):
    z = sigma^-1(h)        delta = sigma'(z) (W_next' delta_next)           (equations 12, 13)
    [K(delta); W] x = [dW; z - b]      by least squares                     (equation 15; `constraints`)
The rank of [K; W] says beforehand whether a layer's input is determined    (section 4; `rank_index`)

A linear layer with a bias has delta = db and h = dW_i / db_i (Phong et al. 2018): the recursion starts at
the first such layer, and what follows it does not matter.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import Chain, chain_of, unpooled
from leakgauge.analytic.constraints import system_of, too_large
from leakgauge.analytic.last_layer import rounding
from leakgauge.analytic.linear import rank_one
from leakgauge.analytic.output_layer import starts
from leakgauge.analytic.rank_index import LayerRank, carried, measured
from leakgauge.attacks.labels import labels_of, withheld
from leakgauge.core import (
    CERTIFIED_WITHIN,
    CONVERGED_WITHIN,
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Status,
)
from leakgauge.core.verdicts import nothing_found
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.output.one_label import Explained


@dataclass(frozen=True, kw_only=True)
class RGAP(BaseAttack):
    """One example through a chain of convolutions and linear layers without pools, in closed form.

    `rows`: "plain" stacks the equations of a layer as they are, as in the paper; "balanced" divides
    gradient's and weight's each by the norm of its right side (ours), which keeps float32 updates exact.
    """

    rows: Literal["balanced", "plain"] = "balanced"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def unsuited(self, observation: Observation) -> str | None:
        reason = observation.not_one_example()
        if reason is not None:
            return reason
        chain = chain_of(observation.model, observation.domain)
        if isinstance(chain, Inapplicable):
            return chain.reason
        return unpooled(chain) or unstarted(chain, observation) or oversized(chain, observation)

    def evaluations(self, observation: Observation) -> int:
        return 3

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        clock = time.perf_counter()
        chain = chain_of(observation.model, observation.domain)
        assert isinstance(chain, Chain), "unsuited() refuses this"
        with seeds.isolated("simulation"):
            guesses: list[_Guess] = []
            for start in beginnings(chain, observation):
                balanced = self.rows == "balanced"
                guesses.append(_finished(observation, chain, start, seeds, balanced))
                if guesses[-1].misfit <= CERTIFIED_WITHIN:
                    break
        cost = Cost(len(guesses), time.perf_counter() - clock)
        if not guesses:
            reason = "no label and output explain the last layer's gradient"
            return nothing_found(observation, Status.UNCONVERGED, reason, cost=cost)
        return min(guesses, key=lambda guess: guess.misfit).reconstruction(cost)


@dataclass(frozen=True)
class Beginning:
    """The layer `place` whose input h (F,) and delta (O,) are known; and the label, where it is."""

    place: int
    features: Tensor
    delta: Tensor
    label: int | None


@dataclass(frozen=True)
class _Guess:
    inputs: Tensor
    targets: Tensor | None
    residual: float | None
    ranks: tuple[LayerRank, ...]

    @property
    def misfit(self) -> float:
        """The residual, for comparison: infinite where no label is known to simulate with."""
        return math.inf if self.residual is None else self.residual

    def reconstruction(self, cost: Cost) -> Reconstruction:
        """With a status that the ranks and the residual prove, or do not."""
        short = [layer for layer in self.ranks if layer.index < 0]
        status = Status.UNCONVERGED
        if self.misfit <= CONVERGED_WITHIN:
            status = Status.CONVERGED
        if self.misfit <= CERTIFIED_WITHIN and not short:
            status = Status.CERTIFIED
        told = "every layer's input is determined"
        if short:
            first = short[-1]  # the recursion comes from the output
            told = f"rank index {first.index} at {first.name!r}: its input is not determined"
        matched = "the label is not known, so nothing is checked"
        if self.residual is not None:
            matched = f"the update is matched to {self.residual:.2g} of its norm"
        return Reconstruction(
            inputs=self.inputs,
            targets=self.targets,
            found=torch.ones(1, dtype=torch.bool),
            status=status,
            message=f"{told}; {matched}",
            residual=self.residual,
            cost=cost,
            notes=tuple(layer.line for layer in self.ranks),
        )


def unstarted(chain: Chain, observation: Observation) -> str | None:
    """Why no recursion can start at the end of this chain; None where one can."""
    for link in chain.links:
        if f"{link.name}.weight" not in observation.update.tensors:
            return f"the weight of {link.name!r} is not trained"
    last = chain.links[-1]
    if biased(chain, observation) is not None:
        return None
    if not isinstance(last.layer, nn.Linear):
        return f"the last layer, {last.name!r}, is a convolution, and no linear layer has a bias"
    if observation.classes is None:
        return "without a bias the recursion starts from the label: needs a classification loss"
    return None


def oversized(chain: Chain, observation: Observation) -> str | None:
    """Why the equations of a layer to be solved are too many; None where they are not."""
    place = biased(chain, observation)
    solved = chain.links[: len(chain.links) if place is None else place]
    return next((reason for link in solved if (reason := too_large(link)) is not None), None)


def biased(chain: Chain, observation: Observation) -> int | None:
    """The first linear layer whose bias is trained and moved: its delta is db."""
    for i, link in enumerate(chain.links):
        db = observation.update.tensors.get(f"{link.name}.bias")
        if isinstance(link.layer, nn.Linear) and db is not None and bool(db.any()):
            return i
    return None


def shared(observation: Observation, name: str) -> Tensor | None:
    """A tensor of the update in float64, on the CPU."""
    tensor = observation.update.tensors.get(name)
    return None if tensor is None else tensor.detach().double().cpu()


def beginnings(chain: Chain, observation: Observation) -> list[Beginning]:
    """Where the recursion may start, best first."""
    last = chain.links[-1]
    explained: list[Explained] = []
    dweight = shared(observation, f"{last.name}.weight")
    assert dweight is not None, "unstarted() refuses this"
    if isinstance(last.layer, nn.Linear) and observation.classes is not None and dweight.any():
        dbias = shared(observation, f"{last.name}.bias")
        explained = starts(
            chain, observation.loss, dweight, dbias, classes=max(2, observation.classes)
        )
        granted = observation.knowledge.labels
        if granted is not None and granted.ndim == 1:
            explained = [start for start in explained if start.label == int(granted[0])]
    place = biased(chain, observation)
    if place is None:
        return [Beginning(len(chain.links) - 1, s.features, s.delta, s.label) for s in explained]
    link = chain.links[place]
    weight = shared(observation, f"{link.name}.weight")
    bias = shared(observation, f"{link.name}.bias")
    assert weight is not None
    assert bias is not None, "biased() found it"
    features = rank_one(weight, bias, torch.ones_like(weight))
    return [Beginning(place, features, bias, explained[0].label if explained else None)]


def recursion(
    chain: Chain, observation: Observation, start: Beginning, *, balanced: bool
) -> tuple[Tensor, tuple[LayerRank, ...]]:
    """What the first layer sees (*shape), and the rank of every layer on the way."""
    x, delta = start.features, start.delta
    ranks: list[LayerRank] = []
    for i in range(start.place - 1, -1, -1):
        link, following = chain.links[i], chain.links[i + 1]
        noise = rounding(observation.update.tensors[f"{link.name}.weight"]).shared
        z, known, slope = link.deactivate(x.reshape(link.output), noise=noise)
        delta = following.back(delta).reshape(link.output) * slope
        dweight = shared(observation, f"{link.name}.weight")
        assert dweight is not None, "unstarted() refuses this"
        bias = link.layer.bias
        if bias is not None:
            z = z - bias.detach().reshape(-1, *[1] * (z.ndim - 1))
        system = system_of(link, delta, known)
        x = system.solve(dweight, z, noise=noise, balanced=balanced).reshape(link.shape)
        ranks.append(measured(link.name, link.shape, system))
    return x, carried(tuple(reversed(ranks)))


def _finished(
    observation: Observation, chain: Chain, start: Beginning, seeds: Seeds, balanced: bool
) -> _Guess:
    """The example that one start leads to, its label, and how well the update is then matched."""
    seen, ranks = recursion(chain, observation, start, balanced=balanced)
    targets = label_of(observation, start, seeds)
    return _Guess(*compared(observation, chain, seen, targets), ranks)


def compared(
    observation: Observation, chain: Chain, seen: Tensor, targets: Tensor | None
) -> tuple[Tensor, Tensor | None, float | None]:
    """The inputs (1, *shape) of what the first layer sees, their targets, and the residual where those are known."""
    like = observation.update.like
    # The domain's range is public: a value outside it is an error, for certain.
    unit = chain.invert(seen.reshape(1, -1)).clamp(0, 1).to(like)
    inputs = observation.domain.from_unit(unit)
    if targets is None:
        return inputs, None, None
    simulated = simulator(observation, create_graph=False)(unit, targets)
    return inputs, targets, float(relative_residual(simulated, observation.update.tensors))


def label_of(observation: Observation, start: Beginning, seeds: Seeds) -> Tensor | None:
    """The label (1,) that explains the last layer, else one that is granted or estimated; or None."""
    device = observation.update.like.device
    if start.label is not None:
        return torch.tensor([start.label], device=device)
    if observation.classes is None or withheld(observation) is not None:
        return observation.knowledge.labels
    return labels_of(observation, seeds)[0]
