"""The linear layer in closed form. Phong, Aono, Hayashi, Wang, Moriai: IEEE TIFS 13(5), 2018, section 3.

    dL/dW_i = sum_j delta_ij h_j'     dL/db_i = sum_j delta_ij     =>     h_j = dL/dW_i / dL/db_i

for every output i that example j alone excites. Which outputs those are, the update itself tells:
an isolated h with label y must, when pushed through the known model, cause exactly db_i. Examples
found are subtracted, which isolates others. Needs no truth, and no optimization.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.linear import LinearEntry, deltas, entry, rank_one, ratios
from leakgauge.core import (
    CERTIFIED_WITHIN,
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    unit_shape,
)
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.labels import Known, LastLayer
from leakgauge.inversion.variables.targets import solved_targets

EXPLAINED = CERTIFIED_WITHIN
"""Fraction of the layer's gradient left over at which the examples found explain it."""
CHANCE = 1e-3
"""Relative error above which one output's match proves little by itself."""
TOLERANCES = (1e-5, 1e-3, 1e-2)
"""Relative errors allowed to an isolated output, tried in turn: float32, fp16 and bf16 updates."""


@dataclass(frozen=True, kw_only=True)
class LinearLayer(BaseAttack):
    """Every example that an output of the first linear layer isolates, exactly; labels with it."""

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def unsuited(self, observation: Observation) -> str | None:
        reason = observation.not_one_gradient()
        if reason is not None:
            return reason
        found = entry(observation)
        if isinstance(found, Inapplicable):
            return found.reason
        # A batch of one needs no label to be divided; of several, each is told by what it causes.
        several = observation.knowledge.batch_size != 1 and observation.classes is not None
        return (
            found.contribution.reason
            if several and isinstance(found.contribution, Inapplicable)
            else None
        )

    def evaluations(self, observation: Observation) -> int:
        return 1

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        observation = mean_network(observation)
        clock = time.perf_counter()
        found = entry(observation)
        assert isinstance(found, LinearEntry), "unsuited() refuses this"
        search = _Peeling(observation, found)
        with seeds.isolated("simulation"):
            if observation.batch_size == 1:
                search.single()
            else:
                search.peel()
            return search.finish(seeds, seconds=time.perf_counter() - clock)


@dataclass
class _Example:
    """One recovered input of the layer: features (F,), its label, and delta (O,) by which it excites each output."""

    features: Tensor
    label: int | None
    delta: Tensor


class _Peeling:
    """Isolate, verify, subtract, repeat."""

    def __init__(self, observation: Observation, entry: LinearEntry) -> None:
        self.observation, self.entry = observation, entry
        tensors = observation.update.tensors
        self.weight = tensors[f"{entry.name}.weight"].double().cpu()
        self.bias = tensors[f"{entry.name}.bias"].double().cpu()
        self.scale = float(self.bias.abs().max())
        self.kept = kept_entries(observation, f"{entry.name}.weight")
        self.found: list[_Example] = []
        self.verified_count = 0
        self.tolerance = TOLERANCES[0]
        self.evaluations = 0

    def single(self) -> None:
        """Batch 1: every output has the same ratio; all are averaged, weighted by their strength."""
        if self.scale > 0:
            features = rank_one(self.weight, self.bias, self.kept)
            self.found = [_Example(features, None, self.bias)]
            self.verified_count = 1

    def peel(self) -> None:
        """Rounds of verified examples, until a round adds none; the tightest tolerance that finds any."""
        for tolerance in TOLERANCES:
            exact = tolerance == TOLERANCES[0]
            self.extend(tolerance, alone=not exact)
            if exact and len(self.found) < self.observation.batch_size:
                self.gamble(tolerance)
            if not exact:
                self.found = self.explaining()
            if self.found:
                self.verified_count = len(self.found)
                self.tolerance = tolerance
                return
        self.found = self.guesses()

    def extend(self, tolerance: float, *, alone: bool) -> None:
        """Rounds until one adds no example. `alone`: a loose match of one output is believed."""
        while fresh := self.verified(tolerance, alone=alone):
            self.found += fresh

    def gamble(self, tolerance: float) -> None:
        """Believe loose matches too, and keep them where the whole batch then explains the gradient."""
        proven = list(self.found)
        self.extend(tolerance, alone=True)
        if len(self.found) < self.observation.batch_size or self.left_over() >= EXPLAINED:
            self.found = proven

    def explaining(self) -> list[_Example]:
        """The found less those without which less is left over: a chance match of one output adds to it."""
        left = self.left_over()
        while self.found:
            every = self.found
            without = []
            for i in range(len(every)):
                self.found = every[:i] + every[i + 1 :]
                without.append(self.left_over())
            worst = min(range(len(every)), key=without.__getitem__)
            if without[worst] > left:
                self.found = every
                break
            left = without[worst]
            self.found = every[:worst] + every[worst + 1 :]
        return self.found

    def left_over(self) -> float:
        """The share of the layer's gradient, where it was shared, that the found do not explain."""
        weight, _ = self.remainder()
        whole = self.weight.norm().clamp_min(torch.finfo(torch.float64).tiny)
        return float((self.kept * weight).norm() / whole)

    def remainder(self) -> tuple[Tensor, Tensor]:
        """The layer's gradient less what the found examples cause."""
        weight, bias = self.weight.clone(), self.bias.clone()
        for example in self.found:
            weight -= torch.outer(example.delta, example.features)
            bias -= example.delta
        return weight, bias

    def verified(self, tolerance: float, *, alone: bool) -> list[_Example]:
        """New examples from outputs that they, alone, explain: distinct, best evidence first."""
        weight, bias = self.remainder()
        # Rounding of the sums, and of what was subtracted, hides outputs fainter than this.
        candidates, rows = ratios(weight, bias, floor=10 * tolerance * self.scale)
        unit = self.entry.invert(candidates)
        margin = max(1e-3, 10 * tolerance)
        inside = ((unit > -margin) & (unit < 1 + margin)).flatten(1).all(1)
        candidates, unit, rows = candidates[inside], unit[inside], rows[inside]
        if len(rows) == 0 or isinstance(self.entry.contribution, Inapplicable):
            return []
        error, label, delta = self.explain(unit, rows, bias)
        limit = tolerance * (1 + self.scale / bias[rows].abs())
        fresh: list[_Example] = []
        for i in error.argsort().tolist():
            known = [*self.found, *fresh]
            if len(known) == self.observation.batch_size:
                break
            if error[i] > limit[i] or any(same(candidates[i], e.features) for e in known):
                continue
            # One number that matches within a loose limit may match by chance. Two outputs that
            # name the same input do not: mixtures differ from output to output.
            if limit[i] > CHANCE and not alone and not twice(candidates, i):
                continue
            fresh.append(_Example(candidates[i], int(label[i]), delta[i]))
        return fresh

    def explain(self, unit: Tensor, rows: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each candidate the label by which it best causes the db seen at its row.

        Returns the relative error (N,), that label (N,), and its delta (N, O).
        """
        assert self.observation.classes is not None
        best_error = torch.full((len(rows),), torch.inf, dtype=torch.float64)
        best_label = torch.zeros(len(rows), dtype=torch.long)
        best_delta = torch.zeros((len(rows), len(bias)), dtype=torch.float64)
        for label in range(self.observation.classes):
            delta = deltas(self.observation, self.entry, unit, label)
            self.evaluations += 1
            caused = delta.gather(1, rows.unsqueeze(1)).squeeze(1)
            error = (caused - bias[rows]).abs() / bias[rows].abs()
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_label = torch.where(better, label, best_label)
            best_delta = torch.where(better.unsqueeze(1), delta, best_delta)
        return best_error, best_label, best_delta

    def guesses(self) -> list[_Example]:
        """Where a defense blurred every output: the strongest outputs' ratios, unverified, distinct."""
        picked: list[_Example] = []
        for row in self.bias.abs().argsort(descending=True).tolist():
            if len(picked) == self.observation.batch_size or self.bias[row] == 0:
                break
            features = self.weight[row] / self.bias[row]
            if not any(same(features, e.features, within=0.1) for e in picked):
                picked.append(_Example(features, None, torch.zeros_like(self.bias)))
        return picked

    def finish(self, seeds: Seeds, *, seconds: float) -> Reconstruction:
        """Found examples first; the middle of the domain stands where none was found."""
        observation, batch = self.observation, self.observation.batch_size
        like = observation.update.like
        unit = torch.full((batch, *unit_shape(observation.domain)), 0.5, dtype=torch.float64)
        for i, example in enumerate(self.found):
            # The domain's range is public: a value outside it is noise, for certain.
            unit[i] = self.entry.invert(example.features.unsqueeze(0))[0].clamp(0, 1)
        left = self.left_over()
        proven = left < EXPLAINED and self.verified_count == batch
        targets = self.labels(seeds)
        if targets is None and self.verified_count == batch:
            targets = solved_targets(observation, unit.to(like))
        residual = None
        if targets is not None and self.verified_count == batch:
            simulated = simulator(observation, create_graph=False)(unit.to(like), targets)
            residual = float(relative_residual(simulated, observation.update.tensors))
        status = status_of(observation, unit.to(like), targets, residual, proven=proven)
        how = f"{self.verified_count} of {batch} examples isolated"
        if self.tolerance > TOLERANCES[0]:
            how += f", to {self.tolerance:g} of what they must cause: likely, not proven"
        if self.verified_count == 0:
            how = (
                "no output isolates an example verifiably: the strongest outputs' ratios stand here"
            )
        return Reconstruction(
            inputs=observation.domain.from_unit(unit).to(like),
            targets=targets,
            found=torch.arange(batch) < len(self.found),
            status=status,
            message=f"{how}; {left:.1g} of the layer's gradient left over",
            residual=residual,
            cost=Cost(self.evaluations, seconds),
        )

    def labels(self, seeds: Seeds) -> Tensor | None:
        """Labels found with the examples; for batch 1 read from the last layer."""
        if self.observation.batch_size == 1:
            rules = (LastLayer(), Known())
            granted = self.observation.knowledge.granted() & {"labels", "label_counts"}
            for rule in reversed(rules) if granted else rules:
                if rule.inapplicable(self.observation) is None:
                    return rule.start(self.observation, seeds.generator("labels"))
            return None
        found = [-1 if example.label is None else example.label for example in self.found]
        missing = [-1] * (self.observation.batch_size - len(found))
        return torch.tensor(found + missing) if found else None


def same(a: Tensor, b: Tensor, *, within: float = 1e-3) -> bool:
    """Whether two recovered inputs are one example, up to the rounding of their division."""
    return bool((a - b).norm() <= within * b.norm())


def twice(candidates: Tensor, i: int) -> bool:
    """Whether another of the candidates (N, F) is candidate i again."""
    apart = (candidates - candidates[i]).norm(dim=1)
    return int((apart <= 1e-3 * candidates[i].norm()).sum()) > 1


def kept_entries(observation: Observation, name: str) -> Tensor:
    """1 where a known defense lets the entries of tensor `name` through, 0 where it drops them."""
    tensors = observation.update.tensors
    defense = observation.knowledge.defense
    if defense is None:
        return torch.ones_like(tensors[name]).double().cpu()
    ones = {key: torch.ones_like(tensor) for key, tensor in tensors.items()}
    return defense.adapt(observation.update)(ones)[name].double().cpu()
