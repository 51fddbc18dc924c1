"""A gradient matching under way: its restarts, the spent evaluations, and the best restart."""

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
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.federated.layers.targets import unlabeled
from leakgauge.inversion.descents.descent import Ending, Evaluation
from leakgauge.inversion.evaluation.batching import Loop, Restarts, choose_restarts
from leakgauge.inversion.evaluation.step import BuiltStep, choose, mixed_precision
from leakgauge.inversion.objectives.distances import MATCHED, relative_residual
from leakgauge.inversion.search.composition import RUNGS, Composition
from leakgauge.inversion.search.judgment import diagnose
from leakgauge.inversion.search.restart import Restart, meet, settle
from leakgauge.inversion.simulation import attention
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.simulation.smoothing import smooth_relus
from leakgauge.inversion.variables.labels import ReadyLabels


class Running:
    """The state of one search."""

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
        searched = smooth_relus(observation, matching.smoothing)
        self.restarts = [
            Restart.start(matching, labels, searched, seeds.child(f"trial/{i}"))
            for i in range(matching.restarts)
        ]
        self.notes: dict[str, None] = {}

    def descend(self) -> None:
        """Run every restart to its end, or until halving drops it."""
        matching = self.matching
        live, done, last = self.restarts, 0.0, self.restarts
        for fraction in RUNGS if matching.halving and matching.restarts > 1 else (1.0,):
            whole, last = matching.descent.evaluations, live
            # A descent that is not dropped ends by itself, and reports its notes.
            self.advance(
                live,
                math.inf if fraction == 1.0 else fraction * whole,
                math.ceil((1 - done) * whole),
            )
            if self.solved(live):
                break
            live = sorted(live, key=lambda restart: restart.best.value)[
                : max(1, (len(live) + 1) // 2)
            ]
            done = fraction
        if matching.group is not None:
            self.notes[settle(self.restarts, last, matching.group)] = None
            self.count(len(self.restarts) + 1)

    def solved(self, live: list[Restart]) -> bool:
        """Return whether one of the restarts has reached the tolerance."""
        return min(restart.best.value for restart in live) <= self.matching.tolerance

    def advance(self, live: list[Restart], until: float, planned: int) -> None:
        """Run restarts until each has spent `until` evaluations.

        If they are a group, their consensus is computed on the way.

        Args:
            live: The restarts.
            until: Evaluations of each restart at the end.
            planned: Evaluations of each restart that are planned from here on.
        """
        problem = live[0].problem
        # Labels that depend on random draws may differ from restart to restart.
        held = [restart.problem.fixed for restart in live if restart.problem.fixed is not None]
        fixed = torch.stack(held) if held else None
        steps, note = choose_restarts(problem, fixed, len(live), planned)
        self.notes[note] = None
        # The step is built at its first use, since tracing takes seconds.
        single = cache(lambda: choose(problem, planned)[0])
        for stop in self.stops(live, until):
            self.move(live, stop, steps, single)
            if self.solved(live):
                return
            if self.matching.group is not None and stop < until:
                meet(live, self.matching.group)

    def stops(self, live: list[Restart], until: float) -> list[float]:
        """Return the stops of the restarts, in evaluations of each: at every consensus before `until`, then `until`."""
        group, spent = self.matching.group, live[0].evaluations
        met = () if group is None else group.meetings(self.matching.descent.evaluations)
        return [*(k for k in met if spent <= k < until), until]

    def move(
        self, live: list[Restart], until: float, steps: Restarts, single: Callable[[], BuiltStep]
    ) -> None:
        """Run restarts to a stop: as one axis if that is faster, else one after the other."""
        if isinstance(steps, Loop):
            for restart in live:
                while restart.wants(until):
                    self.evaluate_alone(restart, steps.step)
                if self.solved([restart]):
                    return
            return
        while not self.solved(live) and (moving := [t for t in live if t.wants(until)]):
            # A shared axis needs all restarts, and equal weights of the terms. Restarts in other
            # stages have other weights, and some may have ended.
            if len(moving) == len(live) and len({restart.term_weights() for restart in live}) == 1:
                self.evaluate(live, steps)
                continue
            for restart in moving:
                self.evaluate_alone(restart, single())

    def evaluate(self, live: list[Restart], steps: Restarts) -> None:
        """Evaluate all restarts once, together."""
        requests = [restart.request for restart in live if restart.request is not None]
        variables = tuple(map(torch.stack, zip(*(r.variables for r in requests), strict=True)))
        with self.arithmetic(requests[0].progress):
            values, gradients = steps(variables, requests[0].progress)
        for i, restart in enumerate(live):
            restart.receive(Evaluation(float(values[i]), tuple(g[i] for g in gradients)))
        self.count(len(live))

    def evaluate_alone(self, restart: Restart, step: BuiltStep) -> None:
        """Evaluate one restart once, with its own labels."""
        assert restart.request is not None, "a restart that has ended has no request"
        variables, progress, slope = restart.request
        with self.arithmetic(progress):
            if slope:
                value, gradient = replace(step, problem=restart.problem)(variables, progress)
                restart.receive(Evaluation(float(value), gradient))
            else:
                restart.receive(Evaluation(restart.value_alone(variables, progress), ()))
        self.count(1)

    def arithmetic(self, progress: float) -> AbstractContextManager[None]:
        """Return the context that sets the precision of products at this progress."""
        if self.matching.precision != "mixed":
            return nullcontext()
        like = self.observation.update.like
        return mixed_precision(like.device, progress)

    def count(self, evaluations: int) -> None:
        """Count spent evaluations, and report the progress."""
        self.evaluations += evaluations
        self.progress(
            Moment(
                fraction=min(1.0, self.evaluations / self.planned),
                evaluations=self.evaluations,
                objective=min(
                    (t.best.value for t in self.restarts if t.best.variables), default=None
                ),
                best=self.best if any(t.best.variables for t in self.restarts) else None,
            )
        )

    def best(self) -> Reconstruction:
        """Return the reconstruction at the best iterate so far. It also works after the search was stopped."""
        with self.seeds.isolated("simulation"), attention.written_out():
            return self.finish()

    def finish(self) -> Reconstruction:
        """Return the reconstruction at the best iterate. Its status says how far the update was matched."""
        observation, seconds = self.observation, time.perf_counter() - self.clock
        cost = Cost(self.evaluations)
        chosen = min(range(len(self.restarts)), key=lambda i: self.restarts[i].best.value)
        restart = self.restarts[chosen]
        objectives = tuple(t.best.value for t in self.restarts if t.evaluations)
        if restart.best.variables is None:
            return report_nothing_found(
                observation,
                Status.DIVERGED,
                "the objective was not finite at any iterate: lower lr or use a line search",
                cost=cost,
            )
        unit, targets = restart.problem.decode(restart.best.variables)
        if targets.ndim == 2 and observation.classes is not None and self.labels.free:
            targets = targets.argmax(-1)  # The status must be that of the returned labels.
        simulated = simulator(observation, create_graph=False)(unit, targets)
        residual = float(relative_residual(simulated, observation.update.tensors))
        inputs = observation.domain.from_unit(unit).detach()
        status, message = self.verdict(residual)
        diagnosis = diagnose((ending := restart.ending or Ending()).identification, residual)
        # Rows of class probabilities are returned as class indices if the loss takes these.
        soft = targets.ndim == 2 and unlabeled(observation) is None
        return Reconstruction(
            inputs=inputs,
            targets=targets.argmax(-1) if soft else targets.detach(),
            found=torch.ones(observation.batch_size, dtype=torch.bool),
            status=status,
            message=message if diagnosis is None else f"{message}; {diagnosis.line}",
            residual=residual,
            objectives=objectives,
            restart=chosen,
            trajectory=(
                *restart.trajectory,
                Snapshot(self.evaluations, restart.best.value, inputs, seconds),
            ),
            cost=cost,
            diagnosis=diagnosis,
            notes=tuple(note for note in (*self.notes, *ending.notes) if note),
        )

    def verdict(self, residual: float) -> tuple[Status, str]:
        """Return the status and a message, which names a remedy unless the search succeeded."""
        matched = f"the update is matched to {residual:.2g} of its norm"
        if residual <= MATCHED:
            return Status.CONVERGED, matched
        if not all(restart.finite for restart in self.restarts):
            return (
                Status.DIVERGED,
                f"{matched}, and then the objective was not finite: lower lr, or use a line search",
            )
        return (
            Status.UNCONVERGED,
            f"{matched}: more steps, more restarts or another attack may go further",
        )
