"""A gradient matching under way: its restarts, what they have spent, and the best of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache

import torch

from leakgauge.core import (
    Cost,
    Moment,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Snapshot,
    Status,
)
from leakgauge.core.verdicts import nothing_found
from leakgauge.federated.layers.targets import unlabeled
from leakgauge.inversion.descents.descent import Ending, Evaluation
from leakgauge.inversion.evaluation.batching import Loop, Trials, choose_trials
from leakgauge.inversion.evaluation.step import BuiltStep, choose, mixed
from leakgauge.inversion.objectives.distances import MATCHED, relative_residual
from leakgauge.inversion.search.composition import RUNGS, Composition
from leakgauge.inversion.search.judgment import diagnose
from leakgauge.inversion.search.trial import Trial, meet, settle
from leakgauge.inversion.simulation import attention
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.simulation.smoothing import smoothed
from leakgauge.inversion.variables.labels import ReadyLabels


class Running:
    """The state of one search: everything that a descent does not need to know."""

    def __init__(
        self,
        matching: Composition,
        labels: ReadyLabels,
        observation: Observation,
        seeds: Seeds,
        progress: Progress,
    ) -> None:
        self.matching, self.labels = matching, labels
        self.observation, self.progress = observation, progress
        self.seeds, self.clock = seeds, time.perf_counter()
        self.planned, self.evaluations = matching.budget, 0
        searched = smoothed(observation, matching.smoothing)
        self.trials = [
            Trial.start(matching, labels, searched, seeds.child(f"trial/{i}"))
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
        if targets.ndim == 2 and observation.classes is not None and self.labels.free:
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
