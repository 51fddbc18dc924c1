"""What a step costs, by counting: operations, tensors held, parameters. Never by timing."""

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

# Measured in float32 on one core (benchmarks/step_cost.py). Constants, since a timing would choose by chance.
FLOPS = 6e10
"""Floating-point operations of convolutions and products in a second."""
REPEATED = 0.35
"""Plain gradients' worth of products that tracing saves: 2.33 of them instead of 2.70."""
STARTED = 4e-5
"""Seconds that generated code saves a step, for each operator of the plain gradient."""
PARAMETER = 5e-9
"""Seconds that generated code saves a step, for each parameter: fewer passes over the update."""
SHARED = 1e-4
"""Seconds that a restart saves as part of one axis, for each operator of the plain gradient."""
TRACING = 0.02
"""Seconds to trace a step, for each operator of the plain gradient."""
FUSING = (8.0, 0.27)
"""Seconds to generate a step's code: always, and for each operator of the plain gradient."""
BATCHABLE = 2e6
"""Floating-point operations in each operator up to which restarts gain from sharing operators."""
MARGIN = 2.0
"""A compilation must save this many times its cost, since a descent may end before its plan."""


@dataclass(frozen=True)
class Work:
    """One plain gradient: floating-point operations, operators, parameters, and two counts of bytes.

    held: what its forward pass keeps for backward; update: the update itself; limit: what a worker may
    hold.
    """

    flops: int
    operators: int
    parameters: int
    held: int
    update: int
    limit: int

    @classmethod
    def of(cls, problem: Problem, training: SingleGradient) -> Work:
        """Count one gradient, at the middle of the domain."""
        seen = problem.observation
        like = seen.update.like
        unit = like.new_full((seen.batch_size, *unit_shape(seen.domain)), 0.5)
        held = problem.fixed
        if held is None:
            held = like.new_zeros((seen.batch_size, seen.classes or 1))
        targets, saved = problem.labels.decode(held), dict[int, int]()

        def keep(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = seen.domain.from_unit(unit)
        own = {p.untyped_storage().data_ptr() for p in seen.model.parameters()}
        operators = _Operators()  # type: ignore[no-untyped-call]
        with operators, saved_tensors_hooks(keep, lambda tensor: tensor):
            local_update(training, seen.model, seen.loss, inputs, targets)
        update = sum(t.nbytes for t in seen.update.tensors.values())
        return cls(
            flops=operators.flops,
            operators=operators.count,
            parameters=seen.update.size,
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
        """Bytes of an eager double backward, about: both passes' tensors, the update and the slope at it."""
        return 5 * self.held // 2 + 2 * self.update


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run, and the floating-point operations of products and convolutions.

    PyTorch's own counter also tracks modules, by hooks that end the backward pass of parametrized weights.
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
    """How a step is compiled, and why."""

    order: Order
    fuse: bool
    reason: str


def choose_path(work: Work, planned: int) -> Path | None:
    """The compilation that pays over so many evaluations; None where the eager double backward does.

    Where its tensors would not fit, forward over reverse, however few the evaluations.
    """
    if work.memory > work.limit:
        size = f"{work.memory / 2**30:.1f} GiB"
        return Path("forward", False, f"step: forward over reverse; the other holds {size}")
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
    """Restarts as one axis, where operators are so small that starting them counts; None where not."""
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
    """Bytes that one worker may hold: half of what a machine has for each core, or half of a GPU's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 2)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total // 2 // (os.cpu_count() or 1))
