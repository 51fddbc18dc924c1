"""Steps: how the value and the gradient of a matching problem are computed. Recipes do not know."""

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
    """Value and gradient of a problem."""

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        """The objective, a scalar, and its gradient at the variables; neither has a graph."""
        ...


@dataclass(frozen=True)
class DoubleBackward:
    """Eager: the simulated update with its graph, then backward through it. Any protocol, any model."""

    problem: Problem

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        leaves = tuple(v.detach().requires_grad_() for v in variables)
        simulate = simulator(self.problem.observation, create_graph=True)
        value = self.problem.value(leaves, self.problem.weights(progress), simulate)
        with _told("differentiated twice"):
            gradient = torch.autograd.grad(value, leaves, materialize_grads=True)
        return value.detach(), gradient


@dataclass(frozen=True)
class ForwardOverReverse:
    """Eager: d<g(v), r>/dv along the slope r of the distance, forward over one backward. Single gradients.

    No graph of a gradient is held: at most that of one forward pass on dual numbers.
    """

    problem: Problem

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        training = self.problem.observation.training
        if not isinstance(training, SingleGradient):
            raise TypeError(f"{type(training).__name__} is not a single gradient")
        leaves = tuple(v.detach().requires_grad_() for v in variables)
        device = variables[0].device
        # Both passes draw the same numbers, where a model in train mode draws any.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            value, own, slope = self._distance(leaves, progress)
        moved = self._along(slope, leaves, training)
        return value, tuple(a + b for a, b in zip(own, moved, strict=True))

    def _distance(
        self, leaves: Variables, progress: float
    ) -> tuple[Tensor, Variables, dict[str, Tensor]]:
        """The objective, its gradient at the variables with the update held, and that at the update."""
        problem, seen = self.problem, self.problem.observation
        unit, targets = (t.detach() for t in problem.decode(leaves))
        inputs = seen.domain.from_unit(unit)
        update = local_update(seen.training, seen.model, seen.loss, inputs, targets)
        held = {name: t.requires_grad_() for name, t in update.items()}
        adapt = adaptation(seen)
        value = problem.value(leaves, problem.weights(progress), lambda unit, targets: adapt(held))
        every = torch.autograd.grad(value, [*leaves, *held.values()], materialize_grads=True)
        count = len(leaves)
        return value.detach(), every[:count], dict(zip(held, every[count:], strict=True))

    def _along(self, slope: Tensors, leaves: Variables, training: SingleGradient) -> Variables:
        """How the variables' gradient of the training loss moves as the parameters move along `slope`."""
        seen = self.problem.observation
        with forward_ad.dual_level(), _told("differentiated forward over backward"):
            duals = {
                name: forward_ad.make_dual(p.detach(), slope[name])  # type: ignore[no-untyped-call]
                for name, p in trainable(seen.model).items()
            }
            unit, targets = self.problem.decode(leaves)
            inputs = seen.domain.from_unit(unit)
            loss = training.scalar(seen.model, seen.loss, duals, inputs, targets)
            first = torch.autograd.grad(loss, leaves, materialize_grads=True)
            tangents = [forward_ad.unpack_dual(t).tangent for t in first]  # type: ignore[no-untyped-call]
        pairs = zip(tangents, leaves, strict=True)
        return tuple(torch.zeros_like(v) if t is None else t for t, v in pairs)


@contextmanager
def _told(how: str) -> Iterator[None]:
    """Raise ModelError where a layer has no such derivative."""
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
            remedy="write that layer or loss out of elementary operations, or choose linear_layer",
        ) from error


REFINED = 3 / 4
"""Share of a descent in mixed precision after which its products are whole float32 again."""


def mixed_precision(device: torch.device, progress: float) -> AbstractContextManager[None]:
    """A GPU's cheaper products up to REFINED of a descent, float32 to finish; on a CPU, float32 throughout."""
    return tf32() if device.type == "cuda" and progress < REFINED else nullcontext()


@contextmanager
def tf32() -> Iterator[None]:
    """Inside, float32 products and convolutions on a GPU round their factors to TF32 (10 bits of mantissa)."""
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


def choose(problem: Problem, planned: int) -> tuple[BuiltStep, str]:
    """The step for so many planned evaluations, and for the record why; "" where it is the plain one.

    By a count of operations, never by timing: the same seed gives the same bits on one machine.
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
