"""The engine of gradient matching: one composition, of which each paper is a recipe.

minimize over x, y   distance(update(x, y), observed update) + priors(x)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    within,
)
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion.descents.gauss_newton import GaussNewton
from leakgauge.inversion.objectives.objective import Term
from leakgauge.inversion.search.composition import Composition
from leakgauge.inversion.search.running import Running
from leakgauge.inversion.simulation import attention
from leakgauge.inversion.simulation.derivability import unrunnable
from leakgauge.inversion.simulation.simulator import drop_misleading, in_precision
from leakgauge.inversion.simulation.units import rescale
from leakgauge.inversion.variables.labels import FixedLabels, ReadyLabels


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Composition, BaseAttack):
    """Search for inputs (and labels) whose simulated update is the observed one.

    `restarts` independent starts; they end early once one reaches `tolerance`. Where `halving`, the
    worse half of them is dropped after 1/8, 1/4 and 1/2 of the steps, by the attacker's objective. The
    best iterate of all is chosen by the objective alone. `precision` is that of the adversary's own copy
    of the model; "mixed": TF32 products on a GPU, and float32 for the last quarter. Where `smoothing` is
    above 0, the search simulates with every ReLU smoothed over that width; the residual reported is that
    of the model as it is. Where the threat model grants BatchNorm's statistics, the objective asks for the
    batch's own too, weighing `statistics` times as much as an update of zero. A `group` holds the restarts
    together; what is returned, one of them or their consensus, the objective chooses. Satisfies the Attack protocol.
    """

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        matching = ready(self, observation)
        if isinstance(matching, Inapplicable):
            return matching
        return Plan(evaluations=self.budget, search=matching.search)


@dataclass(frozen=True)
class Ready:
    """A matching that can search an observation.

    Args:
        matching: the composition.
        labels: its labels, with what was read from the observation.
        observation: the observation as it was shared.
        seen: the observation as the search simulates it.
    """

    matching: GradientMatching
    labels: ReadyLabels
    observation: Observation
    seen: Observation

    @classmethod
    def of(cls, matching: GradientMatching, observation: Observation, labels: ReadyLabels) -> Ready:
        """Return the matching for an observation that needs no check: it is like one that was checked.

        Args:
            labels: the labels, whatever rule the matching has for them.
        """
        return cls(matching, labels, observation, _simulated(matching, observation))

    def with_labels(self, labels: Tensor) -> Ready:
        """Return the same search with labels (B,) or targets (B, K) that are known."""
        return replace(self, labels=FixedLabels(labels))

    def with_terms(self, terms: Term) -> Ready:
        """Return the same search with further terms of the objective, which need no check."""
        objective = self.matching.objective + terms
        return replace(self, matching=replace(self.matching, objective=objective))

    def search(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the batch at the best iterate of all restarts."""
        seen, like = self.seen, self.observation.update.like
        # Asked before attention is written out, which hides the fused kernel.
        notes = attention.notes(seen, seeds)

        def returned(found: Reconstruction) -> Reconstruction:
            # The adversary's own copy computes in float64. The inputs have the observed model's type.
            return replace(
                found,
                inputs=found.inputs.to(like),
                notes=(*notes, *found.notes),
                trajectory=tuple(replace(s, inputs=s.inputs.to(like)) for s in found.trajectory),
            )

        informed = replace(self.matching, objective=self.matching.informed(seen))
        with seeds.isolated("simulation"), attention.written_out():
            told = within(progress, 0.0, 1.0, finish=returned)
            running = Running(informed, self.labels, seen, seeds, told)
            running.descend()
            return returned(running.finish())


def ready(matching: GradientMatching, observation: Observation) -> Ready | Inapplicable:
    """Return the matching, ready to search the observation, or the reason why it cannot."""
    if is_withheld(observation.training):
        return Inapplicable(
            "the local steps are not told: surrogate_model and one_gradient do without"
        )
    labels = observation.knowledge.labels
    if matching.group is not None and labels is not None and labels.ndim > 2:
        return Inapplicable(
            "a group tells examples apart by one label each, and the targets granted are planes"
        )
    any_example = matching.group is not None or isinstance(matching.descent, GaussNewton)
    if any_example and not matching.parametrization.invertible:
        return Inapplicable(
            "a group, and second order, want variables for any example: a generator has none"
        )
    seen = _simulated(matching, observation)
    reason = unrunnable(seen) or matching.objective.inapplicable(observation)
    if reason is not None:
        return Inapplicable(reason)
    read = matching.labels.prepare(seen)
    if isinstance(read, Inapplicable):
        return read
    reason = matching.descent.inapplicable(seen)
    return Ready(matching, read, observation, seen) if reason is None else Inapplicable(reason)


def _simulated(matching: GradientMatching, observation: Observation) -> Observation:
    """Return the observation as the search simulates it: nothing drawn anew, in its precision and scale."""
    seen = drop_misleading(mean_network(observation))
    double = matching.precision == "double"
    return rescale(in_precision(seen, torch.float64) if double else seen)
