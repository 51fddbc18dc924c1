"""The inputs of the first linear layer, recovered in closed form from its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.explanation import Explanation, explain
from leakgauge.analytic.linear import (
    LinearEntry,
    deltas,
    entry,
    has_duplicate,
    is_same_example,
    kept_entries,
    rank_one,
    ratios,
)
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
    unit_shape,
)
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.labels import Known, LastLayer, ReadyLabels
from leakgauge.inversion.variables.targets import solved_targets
from leakgauge.output import Contribution

EXPLAINED = CERTIFIED_WITHIN
"""Largest fraction of the layer's gradient that the recovered examples may leave unexplained."""
CHANCE = 1e-3
"""Allowed relative error above which the match of a single output proves little."""
TOLERANCES = (1e-5, 1e-3, 1e-2)
"""Allowed relative errors of an isolated output, tried in this order. They suit float32, fp16 and bf16 updates."""


@dataclass(frozen=True, kw_only=True)
class LinearLayer(BaseAttack):
    r"""Recover, exactly and with its label, every example that an output of the first linear layer isolates.

    Use it first wherever the model's first linear layer has a trained bias and sees the examples
    through an affine map, as in an MLP. It needs no optimization. The batch may be larger than one,
    if a ReLU follows the layer. Some outputs are then active for one example alone.

    .. math::

        \frac{\partial L}{\partial W_i} = \sum_j \delta_{ij} h_j^\top, \qquad
        \frac{\partial L}{\partial b_i} = \sum_j \delta_{ij}
        \quad \Rightarrow \quad
        h_j = \frac{\partial L / \partial W_i}{\partial L / \partial b_i}

    Here :math:`h_j` is the layer's input for example :math:`j`, and :math:`\delta_{ij}` is the
    gradient of the loss :math:`L` at output :math:`i`. Row :math:`i` of the weight is :math:`W_i`,
    and :math:`b_i` is its bias. The last equation holds for every output that is active for example
    :math:`j` alone. This output isolates the example.

    The update itself shows which outputs these are. The attack sends each candidate :math:`h` with
    each label :math:`y` through the known model. If the candidate is an isolated example, it causes
    exactly the observed :math:`\partial L / \partial b_i`. The attack subtracts the gradients of the
    recovered examples. The rest isolates further examples, and the attack repeats.

    References:
        Phong, Aono, Hayashi, Wang, Moriai. Privacy-Preserving Deep Learning via Additively
        Homomorphic Encryption. IEEE Transactions on Information Forensics and Security 13(5), 2018,
        section 3.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> found = lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0))
        >>> found.status, found.found.tolist()
        (<Status.CERTIFIED: 'certified'>, [True, True])
    """

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        found = entry(observation)
        if isinstance(found, Inapplicable):
            return found
        # With one example, the ratio of gradients needs no label. In a larger batch, a candidate is
        # verified by the gradient that it causes with each label.
        several = observation.knowledge.batch_size != 1 and observation.classes is not None
        if several and isinstance(found.contribution, Inapplicable):
            return found.contribution
        averaged = mean_network(observation)
        search = partial(_search, averaged, found, label_rule(averaged))
        most = most_evaluations(observation.batch_size, found)
        usual = 1 + 2 * (observation.classes or 0)
        return Plan(evaluations=most, search=search, expected=min(most, usual))


def most_evaluations(batch: int, entry: LinearEntry) -> int:
    """Return the largest number of evaluations: one for each class and round, and one to compare the update."""
    if batch == 1 or isinstance(entry.contribution, Inapplicable):
        return 1
    # Each round adds an example or ends a turn. The first tolerance may take two turns.
    rounds = len(TOLERANCES) * (batch + 1) + 1
    return rounds * entry.contribution.classes + 1


def label_rule(observation: Observation) -> ReadyLabels | None:
    """Return the rule for the label of a batch of one, or None if there is no rule or the batch is larger."""
    if observation.batch_size != 1:
        return None
    rules = (LastLayer(), Known())
    granted = observation.knowledge.granted() & {"labels", "label_counts"}
    for rule in reversed(rules) if granted else rules:
        found = rule.prepare(observation)
        if not isinstance(found, Inapplicable):
            return found
    return None


def _search(
    observation: Observation,
    found: LinearEntry,
    label: ReadyLabels | None,
    seeds: Seeds,
    progress: Progress,
) -> Reconstruction:
    """Return the examples that outputs of the layer isolate.

    Args:
        observation: The gradient and the granted knowledge.
        found: The first linear layer.
        seeds: The seeds of the attack.
        progress: Takes the progress of the attack.
        label: Rule for the label of a batch of one. None if there is no rule or the batch is
            larger.
    """
    peeling = _Peeling(observation, found, label, seeds, progress)
    with seeds.isolated("simulation"):
        return peeling.single() if observation.batch_size == 1 else peeling.peel()


@dataclass
class _Example:
    """One recovered input of the layer.

    Args:
        features: The input h, (F,).
        label: The class of the example. None if it is not known.
        delta: The gradient of the loss at each output of the layer, (O,).
    """

    features: Tensor
    label: int | None
    delta: Tensor


class _Peeling:
    """The state of one run: isolate examples, verify them, subtract them, and repeat."""

    def __init__(
        self,
        observation: Observation,
        entry: LinearEntry,
        label: ReadyLabels | None,
        seeds: Seeds,
        progress: Progress,
    ) -> None:
        self.observation, self.entry, self.label = observation, entry, label
        self.seeds, self.progress = seeds, progress
        tensors = observation.update.tensors
        self.weight = tensors[f"{entry.name}.weight"].double().cpu()
        self.bias = tensors[f"{entry.name}.bias"].double().cpu()
        self.scale = float(self.bias.abs().max())
        self.kept = kept_entries(observation, f"{entry.name}.weight")
        self.evaluations = 0

    def single(self) -> Reconstruction:
        """Return the only example: the mean over all outputs, weighted by their strength.

        With one example, all outputs have the same ratio of gradients.
        """
        if self.scale == 0:
            return self.finish([], TOLERANCES[0], verified=0)
        features = rank_one(self.weight, self.bias, self.kept)
        return self.finish([_Example(features, None, self.bias)], TOLERANCES[0], verified=1)

    def peel(self) -> Reconstruction:
        """Return the examples that rounds of verification find, at the tightest tolerance that finds any."""
        for turn, tolerance in enumerate(TOLERANCES):
            found = self.extend([], turn, alone=turn > 0)
            if turn == 0 and len(found) < self.observation.batch_size:
                found = self.with_loose_matches(found)
            if turn > 0:
                found = self.without_chance_matches(found)
            if found:
                return self.finish(found, tolerance, verified=len(found))
        return self.finish(self.unverified(), TOLERANCES[0], verified=0)

    def extend(self, found: list[_Example], turn: int, *, alone: bool) -> list[_Example]:
        """Return the found examples and those of further rounds, up to the first round that adds none.

        Args:
            found: The examples found so far.
            turn: Index of the tolerance.
            alone: Whether to believe a loose match of a single output.
        """
        while fresh := self.verified(found, TOLERANCES[turn], alone=alone):
            found = [*found, *fresh]
            self.report(found, turn)
        return found

    def report(self, found: list[_Example], turn: int) -> None:
        """Report the progress after a round."""
        done = (turn + len(found) / self.observation.batch_size) / len(TOLERANCES)

        def best() -> Reconstruction:
            with self.seeds.isolated("simulation"):
                return self.finish(found, TOLERANCES[turn], verified=len(found))

        self.progress(Moment(done, self.evaluations, best=best))

    def with_loose_matches(self, proven: list[_Example]) -> list[_Example]:
        """Return the proven examples, with loose matches if the whole batch then explains the gradient."""
        found = self.extend(proven, 0, alone=True)
        whole = len(found) == self.observation.batch_size and self.left_over(found) < EXPLAINED
        return found if whole else proven

    def without_chance_matches(self, found: list[_Example]) -> list[_Example]:
        """Return the found examples without chance matches.

        A chance match shows itself: without it, a smaller part of the gradient stays unexplained.
        """
        left = self.left_over(found)
        while found:
            fewer = [found[:i] + found[i + 1 :] for i in range(len(found))]
            without = [self.left_over(others) for others in fewer]
            worst = min(range(len(found)), key=without.__getitem__)
            if without[worst] > left:
                break
            left, found = without[worst], fewer[worst]
        return found

    def left_over(self, found: list[_Example]) -> float:
        """Return the fraction of the layer's shared gradient that the found examples do not explain."""
        weight, _ = self.remainder(found)
        whole = self.weight.norm().clamp_min(torch.finfo(torch.float64).tiny)
        return float((self.kept * weight).norm() / whole)

    def remainder(self, found: list[_Example]) -> tuple[Tensor, Tensor]:
        """Return the layer's gradient, dW (O, F) and db (O,), minus the gradients of the found examples."""
        weight, bias = self.weight.clone(), self.bias.clone()
        for example in found:
            weight -= torch.outer(example.delta, example.features)
            bias -= example.delta
        return weight, bias

    def verified(self, found: list[_Example], tolerance: float, *, alone: bool) -> list[_Example]:
        """Return new distinct examples that each explain one output alone, the one with the best evidence first."""
        weight, bias = self.remainder(found)
        # Rounding errors of the sums and of the subtraction hide outputs fainter than this.
        candidates, rows = ratios(weight, bias, floor=10 * tolerance * self.scale)
        unit = self.entry.invert(candidates)
        margin = max(1e-3, 10 * tolerance)
        inside = ((unit > -margin) & (unit < 1 + margin)).flatten(1).all(1)
        candidates, unit, rows = candidates[inside], unit[inside], rows[inside]
        contribution = self.entry.contribution
        if len(rows) == 0 or isinstance(contribution, Inapplicable):
            return []
        best = self.explained(contribution, unit, rows, bias)
        limit = tolerance * (1 + self.scale / bias[rows].abs())
        fresh: list[_Example] = []
        for i in best.misfit.argsort().tolist():
            known = [*found, *fresh]
            if len(known) == self.observation.batch_size:
                break
            if best.misfit[i] > limit[i] or any(
                is_same_example(candidates[i], e.features) for e in known
            ):
                continue
            # One number within a loose limit may match by chance. Two outputs with the same ratio
            # do not, since the ratios of mixtures differ from output to output.
            if limit[i] > CHANCE and not alone and not has_duplicate(candidates, i):
                continue
            fresh.append(_Example(candidates[i], int(best.labels[i]), best.caused[i]))
        return fresh

    def explained(
        self, contribution: Contribution, unit: Tensor, rows: Tensor, bias: Tensor
    ) -> Explanation:
        """Return for each candidate the label whose db is closest to the observed db of the candidate's output."""
        self.evaluations += contribution.classes

        def misfit(caused: Tensor) -> Tensor:
            here = caused.gather(1, rows.unsqueeze(1)).squeeze(1)
            return (here - bias[rows]).abs() / bias[rows].abs()

        cause = partial(deltas, self.observation.domain, self.entry, contribution, unit)
        return explain(cause, misfit, range(contribution.classes))

    def unverified(self) -> list[_Example]:
        """Return the distinct ratios of the strongest outputs, unverified. They serve if no output can be verified."""
        picked: list[_Example] = []
        for row in self.bias.abs().argsort(descending=True).tolist():
            if len(picked) == self.observation.batch_size or self.bias[row] == 0:
                break
            features = self.weight[row] / self.bias[row]
            if not any(is_same_example(features, e.features, within=0.1) for e in picked):
                picked.append(_Example(features, None, torch.zeros_like(self.bias)))
        return picked

    def finish(self, found: list[_Example], tolerance: float, *, verified: int) -> Reconstruction:
        """Return the reconstruction: the found examples first, then the middle of the domain for each other one."""
        observation, batch = self.observation, self.observation.batch_size
        like = observation.update.like
        unit = torch.full((batch, *unit_shape(observation.domain)), 0.5, dtype=torch.float64)
        for i, example in enumerate(found):
            # The domain's range is public, so that a value outside it must be noise.
            unit[i] = self.entry.invert(example.features.unsqueeze(0))[0].clamp(0, 1)
        left = self.left_over(found)
        proven = left < EXPLAINED and verified == batch
        targets = self.labels(found)
        if targets is None and verified == batch:
            targets = solved_targets(observation, unit.to(like))
        residual = None
        if targets is not None and verified == batch:
            simulated = simulator(observation, create_graph=False)(unit.to(like), targets)
            residual = float(relative_residual(simulated, observation.update.tensors))
        status = status_of(observation, unit.to(like), targets, residual, proven=proven)
        how = f"{verified} of {batch} examples isolated"
        if tolerance > TOLERANCES[0]:
            how += f", each within a relative error of {tolerance:g}: they are likely, not proven"
        if verified == 0:
            how = (
                "no output verifiably isolates an example, so the inputs are those that the strongest outputs "
                "would give if each isolated one"
            )
        return Reconstruction(
            inputs=observation.domain.from_unit(unit).to(like),
            targets=targets,
            found=torch.arange(batch) < len(found),
            status=status,
            message=f"{how}; a fraction of {left:.1g} of the layer's gradient is unexplained",
            residual=residual,
            cost=Cost(self.evaluations),
        )

    def labels(self, examples: list[_Example]) -> Tensor | None:
        """Return the labels (B,) of the examples, -1 for each unknown one, or None if no label is known.

        The label of a batch of one comes from its rule.
        """
        if self.observation.batch_size == 1:
            generator = self.seeds.generator("labels")
            return None if self.label is None else self.label.start(self.observation, generator)
        found = [-1 if example.label is None else example.label for example in examples]
        missing = [-1] * (self.observation.batch_size - len(found))
        return torch.tensor(found + missing) if found else None
