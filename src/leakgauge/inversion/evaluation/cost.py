"""The cost of a step, by counting operations, held tensors and parameters. Never by timing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from leakgauge.core import SingleGradient, unit_shape
from leakgauge.federated.training.fedsgd import local_update
from leakgauge.inversion.evaluation.compilation import Order
from leakgauge.inversion.evaluation.problem import Problem

# Measured in float32 on one core (benchmarks/step_cost.py). They are constants, since timings vary from
# run to run, and the choice must not.
FLOPS = 6e10
"""Speed of convolutions and matrix products, in floating-point operations per second."""
REPEATED = 0.35
"""Work that tracing saves in a step, in plain gradients. A step costs about 2.70 untraced, 2.33 traced."""
STARTED = 4e-5
"""Seconds that generated code saves in each step, for each operator of the plain gradient."""
PARAMETER = 5e-9
"""Seconds that generated code saves in each step, for each parameter, by fewer passes over the update."""
SHARED = 1e-4
"""Seconds that a step saves for each further restart on the axis and each operator of the plain gradient."""
TRACING = 0.02
"""Seconds to trace a step, for each operator of the plain gradient."""
FUSING = (8.0, 0.27)
"""Seconds to generate a step's code: a constant, and a part for each operator of the plain gradient."""
BATCHABLE = 2e6
"""Restarts gain from sharing operators if an operator has at most this many floating-point operations."""
MARGIN = 2.0
"""Factor by which the savings must exceed the cost of a compilation, since a descent may end early."""


@dataclass(frozen=True)
class Work:
    """The cost of one plain gradient.

    Args:
        flops: Number of floating-point operations.
        operators: Number of operators.
        parameters: Number of parameters.
        held: Bytes that the forward pass keeps for the backward pass.
        update: Bytes of the update.
        limit: Bytes that one worker may hold.
    """

    flops: int
    operators: int
    parameters: int
    held: int
    update: int
    limit: int

    @classmethod
    def of(cls, problem: Problem, training: SingleGradient) -> Work:
        """Count the cost of one gradient, at the middle of the domain."""
        observation = problem.observation
        like = observation.update.like
        unit = like.new_full((observation.batch_size, *unit_shape(observation.domain)), 0.5)
        held = problem.fixed
        if held is None:
            held = like.new_zeros((observation.batch_size, observation.classes or 1))
        targets, saved = problem.labels.decode(held), dict[int, int]()

        def keep(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = observation.domain.from_unit(unit)
        own = {p.untyped_storage().data_ptr() for p in observation.model.parameters()}
        operators = _Operators()  # type: ignore[no-untyped-call]
        with operators, saved_tensors_hooks(keep, lambda tensor: tensor):
            local_update(training, observation.model, observation.loss, inputs, targets)
        update = sum(t.nbytes for t in observation.update.tensors.values())
        return cls(
            flops=operators.flops,
            operators=operators.count,
            parameters=observation.update.size,
            held=sum(size for place, size in saved.items() if place not in own),
            update=update,
            limit=memory_limit(like.device),
        )

    @property
    def tracing(self) -> float:
        """Seconds to trace a step."""
        return TRACING * self.operators

    @property
    def fusing(self) -> float:
        """Seconds to generate code for a traced step."""
        return FUSING[0] + FUSING[1] * self.operators

    @property
    def memory(self) -> int:
        """Approximate bytes of an eager double backward: both passes' tensors, the update and its slope."""
        return 5 * self.held // 2 + 2 * self.update


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A counter of the operators that run, and of their floating-point operations.

    Only products and convolutions count as floating-point operations. PyTorch's own counter also
    tracks modules. Its hooks break the backward pass of parametrized weights.
    """

    count = 0
    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=found)
        return found


@dataclass(frozen=True)
class Path:
    """How a step is compiled.

    Args:
        order: The order of differentiation.
        fuse: Whether code is generated.
        reason: A note for the record.
    """

    order: Order
    fuse: bool
    reason: str


def choose_path(work: Work, planned: int) -> Path | None:
    """Return how to compile a step so that `planned` evaluations repay it, or None if they cannot.

    With None, the step is the eager double backward. If its tensors do not fit in memory, the
    result is forward over reverse, even for few evaluations.
    """
    if work.memory > work.limit:
        size = f"{work.memory / 2**30:.1f} GiB"
        return Path(
            "forward", False, f"step: forward over reverse, since double backward would hold {size}"
        )
    traced = REPEATED * work.flops / FLOPS
    fused = traced + STARTED * work.operators + PARAMETER * work.parameters
    tracing, fusing = MARGIN * work.tracing, MARGIN * (work.tracing + work.fusing)
    gains: tuple[tuple[float, Path | None], ...] = (
        (0.0, None),
        (planned * traced - tracing, Path("reverse", False, "step: traced")),
        (planned * fused - fusing, Path("reverse", True, "step: compiled")),
    )
    return max(gains, key=lambda gain: gain[0])[1]


def choose_batched_path(work: Work, restarts: int, planned: int) -> Path | None:
    """Return how to compile restarts as one axis, or None if the compilation would cost more than it saves.

    One axis saves time if the operators are so small that the time to start them matters.
    """
    small = work.flops <= BATCHABLE * work.operators
    if not small or restarts * work.memory > work.limit:
        return None
    saved = planned * (restarts - 1) * SHARED * work.operators
    if saved < MARGIN * work.tracing:
        return None
    fuse = planned * STARTED * work.operators > MARGIN * work.fusing
    said = f"step: {restarts} restarts as one axis, " + ("compiled" if fuse else "traced")
    return Path("reverse", fuse, said)


def memory_limit(device: torch.device) -> int:
    """Return the bytes that one worker may hold: half of a GPU's memory, or half of one core's part of the RAM."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 2)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total // 2 // (os.cpu_count() or 1))
