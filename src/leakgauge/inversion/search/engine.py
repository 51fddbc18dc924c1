"""Gradient matching as a composition. Each matching attack of a paper is one choice of its parts."""

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
    scale_progress,
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
    r"""Search for inputs, and labels, whose simulated update is the observed one.

    .. math::

        \min_{x, y} \; D(g(x, y), g^*) + \sum_k \lambda_k R_k(x)

    Here :math:`g(x, y)` is the update that the candidate batch would have shared, and :math:`g^*`
    the observed one. The objective adds a distance :math:`D` and priors :math:`R_k` with weights
    :math:`\lambda_k`. Use it to compose an attack of your own. The attacks of papers in
    `leakgauge.attacks` are compositions of the same parts.

    The search returns the best iterate of all restarts, chosen by the objective alone. It ends
    early if one restart reaches `tolerance`.

    Args:
        objective: Sum of distances and priors, for example `Cosine() + 1e-2 * TotalVariation()`.
        parametrization: Variables that the descent moves, and the examples that they stand for.
        labels: Rule for the labels, for example `Known()`.
        descent: Rule that lowers the objective, for example `SignedAdam()`.
        restarts: Number of independent starts, at least 1.
        halving: Whether the worse half of the restarts is dropped after 1/8, 1/4 and 1/2 of the
            steps, by the objective.
        tolerance: Value of the objective at which the search ends, at least 0.
        smoothing: Width, in units of its input, over which every ReLU is smoothed in the
            simulation. With 0, the model is unchanged. The reported residual is always that of the
            unchanged model.
        statistics: Weight of the private batch's BatchNorm statistics, if the threat model grants
            them. The unit is the value of the objective at an update of zero.
        group: Penalty that keeps the restarts together, or None. The objective then chooses between
            the restarts and their consensus.
        precision: Precision of the adversary's copy of the model: "observed", "double", or "mixed".
            With "mixed", a GPU multiplies in TF32, and in float32 for the last quarter.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.inversion import Cosine, GradientMatching, Known, SignedAdam, TotalVariation
        >>> matching = GradientMatching(
        ...     objective=Cosine() + 1e-2 * TotalVariation(),
        ...     labels=Known(),
        ...     descent=SignedAdam(steps=20),
        ...     restarts=2,
        ... )
        >>> found = matching(lg.examples.observation(batch_size=2), seeds=lg.Seeds(0))
        >>> found.inputs.shape, len(found.objectives)
        (torch.Size([2, 1, 8, 8]), 2)
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
        matching: The composition.
        labels: Its labels, with what was recovered from the observation.
        observation: The observation, unchanged.
        searched: The observation as the search simulates it.
    """

    matching: GradientMatching
    labels: ReadyLabels
    observation: Observation
    searched: Observation

    @classmethod
    def of(cls, matching: GradientMatching, observation: Observation, labels: ReadyLabels) -> Ready:
        """Return the matching for an observation like one that was checked before.

        Args:
            matching: The composition.
            observation: The observation.
            labels: The labels, which replace the matching's own rule.
        """
        return cls(matching, labels, observation, _simulated(matching, observation))

    def with_labels(self, labels: Tensor) -> Ready:
        """Return the same search with fixed labels (B,) or targets (B, K)."""
        return replace(self, labels=FixedLabels(labels))

    def with_terms(self, terms: Term) -> Ready:
        """Return the same search with further terms of the objective, which need no check."""
        objective = self.matching.objective + terms
        return replace(self, matching=replace(self.matching, objective=objective))

    def search(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the batch at the best iterate of all restarts."""
        searched, like = self.searched, self.observation.update.like
        # This comes before attention is written out, which hides the fused kernel.
        notes = attention.notes(searched, seeds)

        def returned(found: Reconstruction) -> Reconstruction:
            # The adversary's own copy computes in float64. The inputs have the observed model's type.
            return replace(
                found,
                inputs=found.inputs.to(like),
                notes=(*notes, *found.notes),
                trajectory=tuple(replace(s, inputs=s.inputs.to(like)) for s in found.trajectory),
            )

        informed = replace(self.matching, objective=self.matching.informed(searched))
        with seeds.isolated("simulation"), attention.written_out():
            reported = scale_progress(progress, 0.0, 1.0, finish=returned)
            running = Running(informed, self.labels, searched, seeds, reported)
            running.descend()
            return returned(running.finish())


def ready(matching: GradientMatching, observation: Observation) -> Ready | Inapplicable:
    """Return the matching, ready to search the observation, or the reason why it is not applicable."""
    if is_withheld(observation.training):
        return Inapplicable(
            "the hyperparameters of the local training are not known: use surrogate_model or "
            "one_gradient, which do not need them"
        )
    labels = observation.knowledge.labels
    if matching.group is not None and labels is not None and labels.ndim > 2:
        return Inapplicable(
            "a group of restarts needs one label for each example, and the granted targets have "
            "more dimensions: do without the group"
        )
    any_example = matching.group is not None or isinstance(matching.descent, GaussNewton)
    if any_example and not matching.parametrization.invertible:
        return Inapplicable(
            "a group of restarts, and second order, need a parametrization with an inverse, and a "
            "generator has none: choose a first-order descent without a group"
        )
    searched = _simulated(matching, observation)
    reason = unrunnable(searched) or matching.objective.inapplicable(observation)
    if reason is not None:
        return Inapplicable(reason)
    prepared = matching.labels.prepare(searched)
    if isinstance(prepared, Inapplicable):
        return prepared
    reason = matching.descent.inapplicable(searched)
    return (
        Ready(matching, prepared, observation, searched) if reason is None else Inapplicable(reason)
    )


def _simulated(matching: GradientMatching, observation: Observation) -> Observation:
    """Return the observation as the search simulates it: without random draws, in its precision and scale."""
    searched = drop_misleading(mean_network(observation))
    double = matching.precision == "double"
    return rescale(in_precision(searched, torch.float64) if double else searched)
