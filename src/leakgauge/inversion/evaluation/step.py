"""Steps: how the value and the gradient of a matching problem are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from leakgauge.core import ModelError, SingleGradient, Tensors, trainable
from leakgauge.federated.training.fedsgd import local_update
from leakgauge.inversion.evaluation.compilation import Compiled, NotCompiled
from leakgauge.inversion.evaluation.cost import Work, choose_path
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.simulation.simulator import adaptation, simulator


class Step(Protocol):
    """A function that computes value and gradient of a problem."""

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        """Return the objective, a scalar, and its gradient at the variables. Neither has a graph."""
        ...


@dataclass(frozen=True)
class DoubleBackward:
    """The eager step: simulate the update, then differentiate backward through its graph.

    It works for any protocol and any model.
    """

    problem: Problem

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        leaves = tuple(v.detach().requires_grad_() for v in variables)
        simulate = simulator(self.problem.observation, create_graph=True)
        value = self.problem.value(leaves, self.problem.weights(progress), simulate)
        with _explain_missing_derivative("differentiated twice"):
            gradient = torch.autograd.grad(value, leaves, materialize_grads=True)
        return value.detach(), gradient


@dataclass(frozen=True)
class ForwardOverReverse:
    """The eager step that needs little memory: forward over reverse differentiation.

    It works if the update is one gradient g(v) of variables v. With the slope r of the distance at
    the update, the step computes d<g(v), r>/dv. It never holds the graph of a gradient. At most it
    holds the graph of one forward pass on dual numbers.
    """

    problem: Problem

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        training = self.problem.observation.training
        if not isinstance(training, SingleGradient):
            raise TypeError(f"{type(training).__name__} does not share one gradient")
        leaves = tuple(v.detach().requires_grad_() for v in variables)
        device = variables[0].device
        # Both passes must draw the same random numbers if the model is in train mode.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            value, own, slope = self._distance(leaves, progress)
        moved = self._along(slope, leaves, training)
        return value, tuple(a + b for a, b in zip(own, moved, strict=True))

    def _distance(
        self, leaves: Variables, progress: float
    ) -> tuple[Tensor, Variables, dict[str, Tensor]]:
        """Return the objective and two gradients: at the variables with the update fixed, and at the update."""
        problem, observation = self.problem, self.problem.observation
        unit, targets = (t.detach() for t in problem.decode(leaves))
        inputs = observation.domain.from_unit(unit)
        update = local_update(
            observation.training, observation.model, observation.loss, inputs, targets
        )
        held = {name: t.requires_grad_() for name, t in update.items()}
        adapt = adaptation(observation)
        value = problem.value(leaves, problem.weights(progress), lambda unit, targets: adapt(held))
        every = torch.autograd.grad(value, [*leaves, *held.values()], materialize_grads=True)
        count = len(leaves)
        return value.detach(), every[:count], dict(zip(held, every[count:], strict=True))

    def _along(self, slope: Tensors, leaves: Variables, training: SingleGradient) -> Variables:
        """Return the change of the training loss's gradient at the variables as the parameters move along `slope`."""
        observation = self.problem.observation
        with (
            forward_ad.dual_level(),
            _explain_missing_derivative("differentiated forward over backward"),
        ):
            duals = {
                name: forward_ad.make_dual(p.detach(), slope[name])  # type: ignore[no-untyped-call]
                for name, p in trainable(observation.model).items()
            }
            unit, targets = self.problem.decode(leaves)
            inputs = observation.domain.from_unit(unit)
            loss = training.scalar(observation.model, observation.loss, duals, inputs, targets)
            first = torch.autograd.grad(loss, leaves, materialize_grads=True)
            tangents = [forward_ad.unpack_dual(t).tangent for t in first]  # type: ignore[no-untyped-call]
        pairs = zip(tangents, leaves, strict=True)
        return tuple(torch.zeros_like(v) if t is None else t for t, v in pairs)


@contextmanager
def _explain_missing_derivative(how: str) -> Iterator[None]:
    """Raise ModelError if a layer lacks the derivative."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, NotImplementedError) and "is not implemented" not in text:
            raise
        raise ModelError(
            "gradient matching",
            expected=f"a model and a loss that can be {how}",
            found=text,
            remedy="build that layer or loss from elementary operations, or choose the attack linear_layer",
        ) from error


REFINED = 3 / 4
"""Fraction of a descent in mixed precision after which its products are in float32."""


def mixed_precision(device: torch.device, progress: float) -> AbstractContextManager[None]:
    """Return a context in which a GPU multiplies in TF32 until the progress is REFINED. A CPU keeps float32."""
    return tf32() if device.type == "cuda" and progress < REFINED else nullcontext()


@contextmanager
def tf32() -> Iterator[None]:
    """Make a GPU round the factors of float32 products and convolutions to TF32 (10 bits of mantissa)."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


BuiltStep = DoubleBackward | ForwardOverReverse | Compiled
"""The kinds of steps."""


def choose(problem: Problem, planned: int) -> tuple[BuiltStep, str]:
    """Return the step for `planned` evaluations, and a note for the record.

    The note is "" for the plain step. The choice follows from a count of operations, never from
    timing. So the same seed gives the same bits on one machine.
    """
    training = problem.observation.training
    if not isinstance(training, SingleGradient):
        return DoubleBackward(problem), ""
    path = choose_path(Work.of(problem, training), planned)
    if path is None:
        return DoubleBackward(problem), ""
    try:
        return Compiled.of(problem, order=path.order, fuse=path.fuse), path.reason
    except NotCompiled as error:
        return DoubleBackward(problem), f"step: eager double backward, since {error}"
