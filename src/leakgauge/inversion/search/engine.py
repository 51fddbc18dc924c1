"""The engine of gradient matching: one composition, of which each paper is a recipe.

minimize over x, y   distance(update(x, y), observed update) + priors(x)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import torch

from leakgauge.core import (
    BaseAttack,
    Cost,
    Moment,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Snapshot,
    Status,
    within,
)
from leakgauge.core.verdicts import nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.layers.targets import unlabeled
from leakgauge.federated.training.withheld import untold
from leakgauge.inversion.descents.descent import Descent, Ending, Evaluation
from leakgauge.inversion.descents.gauss_newton import GaussNewton
from leakgauge.inversion.evaluation.batching import Loop, Trials, choose_trials
from leakgauge.inversion.evaluation.step import BuiltStep, choose, mixed
from leakgauge.inversion.objectives.distances import MATCHED, relative_residual
from leakgauge.inversion.objectives.objective import Falling, Term, unmatched
from leakgauge.inversion.objectives.statistics import BatchStatistics
from leakgauge.inversion.search.consensus import Consensus
from leakgauge.inversion.search.judgment import diagnose
from leakgauge.inversion.search.trial import RUNGS, Trial, halved, meet, settle
from leakgauge.inversion.simulation import attention
from leakgauge.inversion.simulation.derivability import unrunnable
from leakgauge.inversion.simulation.simulator import believed, in_precision, simulator
from leakgauge.inversion.simulation.smoothing import smoothed
from leakgauge.inversion.simulation.units import rescaled
from leakgauge.inversion.variables.labels import Labels
from leakgauge.inversion.variables.parametrization import Direct, Parametrization

STATISTICS = 0.1
"""Weight of granted batch statistics; 0.01 to 1 did alike on images that no benchmark attacks."""


@dataclass(frozen=True, kw_only=True)
class GradientMatching(BaseAttack):
    """Search for inputs (and labels) whose simulated update is the observed one.

    `trials` independent starts; they end early once one reaches `tolerance`. Where `halving`, the
    worse half of them is dropped after 1/8, 1/4 and 1/2 of the steps, by the attacker's objective. The
    best iterate of all is chosen by the objective alone. `precision` is that of the adversary's own copy
    of the model; "mixed": TF32 products on a GPU, and float32 for the last quarter. Where `smoothing` is
    above 0, the search simulates with every ReLU smoothed over that width; the residual reported is that
    of the model as it is. Where the threat model grants BatchNorm's statistics, the objective asks for the
    batch's own too, weighing `statistics` times as much as an update of zero. A `group` holds the trials
    together; what is returned, one of them or their consensus, the objective chooses. Satisfies the Attack protocol.
    """

    objective: Term
    parametrization: Parametrization = field(default_factory=Direct)
    labels: Labels
    descent: Descent
    trials: int = 1
    halving: bool = False
    tolerance: float = 0.0
    smoothing: float = 0.0
    statistics: float = STATISTICS
    group: Consensus | None = None
    precision: Literal["observed", "double", "mixed"] = "observed"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def unsuited(self, observation: Observation) -> str | None:
        if untold(observation.training):
            return "the local steps are not told: surrogate_model and one_gradient do without"
        labels = observation.knowledge.labels
        if self.group is not None and labels is not None and labels.ndim > 2:
            return (
                "a group tells examples apart by one label each, and the targets granted are planes"
            )
        any_example = self.group is not None or isinstance(self.descent, GaussNewton)
        if any_example and not self.parametrization.invertible:
            return "a group, and second order, want variables for any example: a generator has none"
        seen = self.seen(observation)
        return (
            unrunnable(seen)
            or self.objective.inapplicable(observation)
            or self.labels.inapplicable(observation)
            or self.descent.inapplicable(seen)
        )

    def seen(self, observation: Observation) -> Observation:
        """Return the observation as the search simulates it: nothing drawn anew, in its precision and scale."""
        seen = believed(mean_network(observation))
        return rescaled(in_precision(seen, torch.float64) if self.precision == "double" else seen)

    def evaluations(self, observation: Observation) -> int:
        whole = self.trials * self.descent.evaluations
        if self.halving:
            whole = min(whole, halved(self.trials, self.descent.evaluations))
        # Each trial is scored once more, and so is their consensus.
        return whole if self.group is None else whole + self.trials + 1

    def informed(self, observation: Observation) -> Term:
        """The objective, with the batch's statistics where they are granted and tell anything."""
        term = BatchStatistics.of(observation)
        if self.statistics == 0 or term.inapplicable(observation) is not None:
            return self.objective
        weight = self.statistics * unmatched(self.objective, observation)
        # What is not quite true leads at first, and must not keep the update from being matched.
        return self.objective + (weight if term.exact else Falling(weight, 1e-4 * weight)) * term

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        seen, like = self.seen(observation), observation.update.like

        def returned(found: Reconstruction) -> Reconstruction:
            # What the adversary's own copy computed in float64 is returned in the observed model's type.
            return replace(
                found,
                inputs=found.inputs.to(like),
                notes=(*attention.notes(seen, seeds), *found.notes),
                course=tuple(replace(s, inputs=s.inputs.to(like)) for s in found.course),
            )

        informed = replace(self, objective=self.informed(seen))
        with seeds.isolated("simulation"), attention.written_out():
            run = _Run(informed, seen, seeds, within(progress, 0.0, 1.0, finish=returned))
            run.descend()
            return returned(run.finish())


class _Run:
    """The state of one call: everything that a descent does not need to know."""

    def __init__(
        self,
        matching: GradientMatching,
        observation: Observation,
        seeds: Seeds,
        progress: Progress,
    ) -> None:
        self.matching, self.observation, self.progress = matching, observation, progress
        self.seeds, self.clock = seeds, time.perf_counter()
        self.planned, self.evaluations = matching.evaluations(observation), 0
        searched = smoothed(observation, matching.smoothing)
        self.trials = [
            Trial.start(matching, searched, seeds.child(f"trial/{i}"))
            for i in range(matching.trials)
        ]
        self.notes: dict[str, None] = {}

    def descend(self) -> None:
        """Every trial to its end, or to where halving drops it."""
        matching = self.matching
        live, done, last = self.trials, 0.0, self.trials
        for share in RUNGS if matching.halving and matching.trials > 1 else (1.0,):
            whole, last = matching.descent.evaluations, live
            # A descent that is not dropped ends by itself, with what it has to say of the end.
            self.advance(
                live, math.inf if share == 1.0 else share * whole, math.ceil((1 - done) * whole)
            )
            if self.solved(live):
                break
            live = sorted(live, key=lambda trial: trial.best.value)[: max(1, (len(live) + 1) // 2)]
            done = share
        if matching.group is not None:
            self.notes[settle(self.trials, last, matching.group)] = None
            self.count(len(self.trials) + 1)

    def solved(self, live: list[Trial]) -> bool:
        """Whether one of them has reached the tolerance."""
        return min(trial.best.value for trial in live) <= self.matching.tolerance

    def advance(self, live: list[Trial], until: float, planned: int) -> None:
        """Trials, until each has spent so many evaluations; on the way they meet, where they are a group."""
        problem = live[0].problem
        # Labels that were read with chance may differ from trial to trial.
        held = [trial.problem.fixed for trial in live if trial.problem.fixed is not None]
        fixed = torch.stack(held) if held else None
        steps, note = choose_trials(problem, fixed, len(live), planned)
        self.notes[note] = None
        # Built where it is first needed: tracing another step takes seconds.
        single = cache(lambda: choose(problem, planned)[0])
        for stop in self.stops(live, until):
            self.move(live, stop, steps, single)
            if self.solved(live):
                return
            if self.matching.group is not None and stop < until:
                meet(live, self.matching.group)

    def stops(self, live: list[Trial], until: float) -> list[float]:
        """After how many evaluations of each trial they meet, and the end."""
        group, spent = self.matching.group, live[0].evaluations
        met = () if group is None else group.meetings(self.matching.descent.evaluations)
        return [*(k for k in met if spent <= k < until), until]

    def move(
        self, live: list[Trial], until: float, steps: Trials, single: Callable[[], BuiltStep]
    ) -> None:
        """Trials up to a stop: as one axis where that wins, else one after the other."""
        if isinstance(steps, Loop):
            for trial in live:
                while trial.wants(until):
                    self.evaluate_alone(trial, steps.step)
                if self.solved([trial]):
                    return
            return
        while not self.solved(live) and (moving := [t for t in live if t.wants(until)]):
            # The axis has one set of weights, and room for all: stages may part, and trials end.
            if len(moving) == len(live) and len({trial.weighs() for trial in live}) == 1:
                self.evaluate(live, steps)
                continue
            for trial in moving:
                self.evaluate_alone(trial, single())

    def evaluate(self, live: list[Trial], steps: Trials) -> None:
        """One evaluation of each trial, all at once."""
        requests = [trial.request for trial in live if trial.request is not None]
        variables = tuple(map(torch.stack, zip(*(r.variables for r in requests), strict=True)))
        with self.arithmetic(requests[0].progress):
            values, gradients = steps(variables, requests[0].progress)
        for i, trial in enumerate(live):
            trial.tell(Evaluation(float(values[i]), tuple(g[i] for g in gradients)))
        self.count(len(live))

    def evaluate_alone(self, trial: Trial, step: BuiltStep) -> None:
        """One evaluation of one trial, with its own labels."""
        assert trial.request is not None, "a trial that has ended asks for nothing"
        with self.arithmetic(trial.request.progress):
            value, gradient = replace(step, problem=trial.problem)(*trial.request)
        trial.tell(Evaluation(float(value), gradient))
        self.count(1)

    def arithmetic(self, progress: float) -> AbstractContextManager[None]:
        """In what numbers products are computed at this share of a descent."""
        if self.matching.precision != "mixed":
            return nullcontext()
        like = self.observation.update.like
        return mixed(like.device, progress)

    def count(self, evaluations: int) -> None:
        """Evaluations spent, told."""
        self.evaluations += evaluations
        self.progress(
            Moment(
                fraction=min(1.0, self.evaluations / self.planned),
                evaluations=self.evaluations,
                objective=min(
                    (t.best.value for t in self.trials if t.best.variables), default=None
                ),
                best=self.best if any(t.best.variables for t in self.trials) else None,
            )
        )

    def best(self) -> Reconstruction:
        """Return the reconstruction at the best iterate so far, from within the search or after it was stopped."""
        with self.seeds.isolated("simulation"), attention.written_out():
            return self.finish()

    def finish(self) -> Reconstruction:
        """The reconstruction at the best iterate, with a status that says how far the update was matched."""
        observation, seconds = self.observation, time.perf_counter() - self.clock
        cost = Cost(self.evaluations)
        chosen = min(range(len(self.trials)), key=lambda i: self.trials[i].best.value)
        trial = self.trials[chosen]
        objectives = tuple(t.best.value for t in self.trials if t.evaluations)
        if trial.best.variables is None:
            return nothing_found(
                observation,
                Status.DIVERGED,
                "the objective was not finite at any iterate: lower lr or use a line search",
                cost=cost,
            )
        unit, targets = trial.problem.decode(trial.best.variables)
        if targets.ndim == 2 and observation.classes is not None and self.matching.labels.free:
            targets = targets.argmax(-1)  # the status is that of the labels that are returned
        simulated = simulator(observation, create_graph=False)(unit, targets)
        residual = float(relative_residual(simulated, observation.update.tensors))
        inputs = observation.domain.from_unit(unit).detach()
        status, message = self.verdict(residual)
        diagnosis = diagnose((ending := trial.ending or Ending()).identification, residual)
        # Rows of class probabilities are told as class indices, if the loss knows such.
        soft = targets.ndim == 2 and unlabeled(observation) is None
        return Reconstruction(
            inputs=inputs,
            targets=targets.argmax(-1) if soft else targets.detach(),
            found=torch.ones(observation.batch_size, dtype=torch.bool),
            status=status,
            message=message if diagnosis is None else f"{message}; {diagnosis.line}",
            residual=residual,
            objectives=objectives,
            trial=chosen,
            course=(*trial.course, Snapshot(self.evaluations, trial.best.value, inputs, seconds)),
            cost=cost,
            diagnosis=diagnosis,
            notes=tuple(note for note in (*self.notes, *ending.notes) if note),
        )

    def verdict(self, residual: float) -> tuple[Status, str]:
        """The status, and for all but success a remedy."""
        share = f"the update is matched to {residual:.2g} of its norm"
        if residual <= MATCHED:
            return Status.CONVERGED, share
        if not all(trial.finite for trial in self.trials):
            return (
                Status.DIVERGED,
                f"{share}, then left finite numbers: lower lr, or use a line search",
            )
        return (
            Status.UNCONVERGED,
            f"{share}: more steps, more trials or another attack may go further",
        )
