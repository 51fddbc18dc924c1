"""Compiled steps: value and gradient of a problem as one graph of operators.

The graph runs directly or through a compiler. Two orders of differentiation give the same gradient:

- "reverse" differentiates the simulated update backward. It needs the fewest operations, but holds
  the whole simulation until its end.
- "forward" uses the slope r of the distance at the simulated update g(v). The gradient at the
  variables v is d<g(v), r>/dv. It is the change of the loss's gradient at v as the parameters move
  along r. This needs a seventh more operations, and little more memory than training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from leakgauge.core import SingleGradient, Tensors, trainable
from leakgauge.inversion.evaluation.graph import Flat, Graph, trace
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.simulation.simulator import adaptation, functional_simulator

Order = Literal["reverse", "forward"]

_compiled: dict[str, Flat] = {}
"""Compiled modules of this process by `Graph.key`.

The key describes the computation: each operator with all its numbers, and the shape, strides and
type of each input. The values of inputs are not part of the key. Inputs are the parameters,
buffers, update, masks of a known defense, labels and weights of the terms. So cells of an audit
that differ only in these values share a module. Problems with different computations never share
one.
"""


class NotCompiled(Exception):
    """A problem has no compiled step. The message is the reason, in one line. The caller runs the eager step."""


@dataclass(frozen=True)
class Compiled:
    """The step of a problem as one graph. Build it with `of`.

    The model's buffers are left unchanged.

    Args:
        problem: The problem.
        constants: Tensors that the graph reads: parameters, buffers, the update.
        run: The graph as a function.
    """

    problem: Problem
    constants: tuple[Tensor, ...]
    run: Flat

    @classmethod
    def of(
        cls,
        problem: Problem,
        *,
        order: Order = "reverse",
        fuse: bool = False,
        restarts: int | None = None,
    ) -> Compiled:
        """Trace the step of a problem.

        Args:
            problem: The problem.
            order: The order of differentiation.
            fuse: Whether TorchInductor generates code for the step. This takes tens of seconds and
                a C++ compiler.
            restarts: Number S of restarts, or None. With S, variables, fixed labels, value and
                gradient have a leading axis S.

        Raises:
            NotCompiled: The training is not one gradient, or the model cannot be traced.
        """
        training = problem.observation.training
        if not isinstance(training, SingleGradient):
            raise NotCompiled(f"{type(training).__name__} does not share one gradient")
        function = _function(problem, training, order)
        examples = _examples(problem, restarts)
        if restarts is not None:
            # The last argument, the weights of the terms, is common to all restarts.
            function = torch.func.vmap(function, (0,) * (len(examples) - 1) + (None,))
        graph = _traced(function, examples)
        if order == "forward" and graph.draws:
            raise NotCompiled("its model draws random numbers, which differ between the two passes")
        if not fuse:
            return cls(problem, graph.constants, graph.module)
        return cls(problem, graph.constants, _fused(graph, examples))

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        fixed = () if self.problem.fixed is None else (self.problem.fixed,)
        weights = variables[0].new_tensor(self.problem.weights(progress))
        with torch.no_grad():
            value, *gradient = self.run(
                *self.constants, *(v.detach() for v in variables), *fixed, weights
            )
        return value, tuple(gradient)


def _function(problem: Problem, training: SingleGradient, order: Order) -> Flat:
    r"""Return a pure function of (\*variables, fixed labels, weights of the terms) to (value, \*gradient)."""
    make = {"reverse": _reverse, "forward": _forward}[order]
    free = problem.fixed is None

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        *given, weights = tensors
        held = problem if free else replace(problem, fixed=given.pop())
        value, gradient = differentiate(held, tuple(given), weights)
        return (value, *gradient)

    differentiate = make(problem, training)
    return function


_Differentiate = Callable[[Problem, Variables, Tensor], tuple[Tensor, Variables]]


def _reverse(problem: Problem, training: SingleGradient) -> _Differentiate:
    """Return a function that differentiates the simulated update backward."""
    simulate = functional_simulator(problem.observation, training)

    def differentiate(
        held: Problem, variables: Variables, weights: Tensor
    ) -> tuple[Tensor, Variables]:
        def value(variables: Variables) -> Tensor:
            return held.value(variables, weights, simulate)

        gradient, at = torch.func.grad_and_value(value)(variables)
        return at, gradient

    return differentiate


def _forward(problem: Problem, training: SingleGradient) -> _Differentiate:
    """Return a function that differentiates forward along the slope of the distance."""
    observation = problem.observation
    adapt = adaptation(observation)
    parameters = {name: p.detach() for name, p in trainable(observation.model).items()}

    def differentiate(
        held: Problem, variables: Variables, weights: Tensor
    ) -> tuple[Tensor, Variables]:
        def scalar(parameters: Tensors, variables: Variables) -> Tensor:
            unit, targets = held.decode(variables)
            inputs = observation.domain.from_unit(unit)
            return training.scalar(observation.model, observation.loss, parameters, inputs, targets)

        def value(variables: Variables, gradient: Tensors) -> Tensor:
            return held.value(variables, weights, lambda unit, targets: adapt(gradient))

        update = torch.func.grad(scalar)(parameters, variables)
        (own, slope), at = torch.func.grad_and_value(value, argnums=(0, 1))(variables, update)
        inner = torch.func.grad(scalar, argnums=1)
        moved = torch.func.jvp(lambda p: inner(p, variables), (parameters,), (slope,))[1]
        return at, tuple(a + b for a, b in zip(own, moved, strict=True))

    return differentiate


def _examples(problem: Problem, restarts: int | None) -> tuple[Tensor, ...]:
    """Return arguments for the problem's function, of the right shapes and types. Each value is 1/2."""
    observation = problem.observation
    like = observation.update.like
    shapes = [problem.parametrization.shape(observation)]
    if problem.fixed is None:
        assert observation.classes is not None, "only labels of a classification can be optimized"
        shapes.append((observation.batch_size, observation.classes))
    lead = () if restarts is None else (restarts,)
    found = [like.new_full((*lead, *shape), 0.5) for shape in shapes]
    if problem.fixed is not None:
        found.append(problem.fixed.expand(*lead, *problem.fixed.shape).contiguous())
    return (*found, like.new_tensor(problem.weights(0.0)))


def _traced(function: Flat, examples: tuple[Tensor, ...]) -> Graph:
    """Return the graph of a function, or raise NotCompiled."""
    try:
        return trace(function, *examples)
    except (RuntimeError, TypeError) as error:
        # The eager step runs instead. It raises the error again if the model itself is wrong.
        raise NotCompiled(f"its model cannot be traced: {_line(error)}") from error


def _fused(graph: Graph, examples: tuple[Tensor, ...]) -> Flat:
    """Return the compiled module of a graph. Graphs of the same computation share one module."""
    key = graph.key
    if key not in _compiled:
        # The compiler keeps the memory layout. Another layout would make convolutions faster, but
        # converting the changing weights in each step would cost more.
        compiled: Flat = torch.compile(
            graph.module, fullgraph=True, dynamic=False, options={"layout_optimization": False}
        )
        device = examples[0].device
        # The first run compiles. Its random draws must not change those of later runs.
        own = torch.random.fork_rng([device] if device.type == "cuda" else [])
        try:
            with torch.no_grad(), own:
                compiled(*graph.constants, *examples)
        except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
            raise NotCompiled(f"the compiler refused it: {_line(error)}") from error
        _compiled[key] = compiled
    return _compiled[key]


def _line(error: Exception) -> str:
    """Return the first line of a message, which may be pages long."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
