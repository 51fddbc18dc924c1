"""Descents: how the variables move. They see values and gradients of an objective, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from leakgauge.core import ModelError

Objective = Callable[[float], Tensor]
"""Progress in [0, 1] to the objective at the variables' current values, with its graph."""


class Descent(Protocol):
    """A rule that lowers an objective over a list of leaf tensors, in place."""

    @property
    def evaluations(self) -> int:
        """Most evaluations of the objective in one run."""
        ...

    def run(
        self,
        objective: Objective,
        variables: list[Tensor],
        *,
        project: Callable[[], None],
        tolerance: float,
    ) -> None:
        """Move `variables` until the objective is at most `tolerance`, is not finite, or the budget ends."""
        ...


def differentiate(value: Tensor, variables: list[Tensor]) -> None:
    """Set each variable's `grad`. Unlike `backward`, this leaves the model's parameters untouched."""
    try:
        gradients = torch.autograd.grad(value, variables, materialize_grads=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise ModelError(
            "gradient matching",
            expected="a model and a loss that can be differentiated twice",
            found=str(error),
            remedy="write that layer or loss out of elementary operations, or choose linear_layer",
        ) from error
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = gradient


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Limited-memory BFGS of `torch.optim`: `steps` calls of up to `inner` iterations each."""

    steps: int = 300
    inner: int = 20
    lr: float = 1.0
    history: int = 100
    line_search: Literal["none", "strong_wolfe"] = "none"
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9

    @property
    def evaluations(self) -> int:
        # An iteration costs one evaluation; line searches stop at torch's max_eval = 1.25 max_iter.
        return self.steps * (self.inner if self.line_search == "none" else self.inner * 5 // 4)

    def run(
        self,
        objective: Objective,
        variables: list[Tensor],
        *,
        project: Callable[[], None],
        tolerance: float,
    ) -> None:
        optimizer = torch.optim.LBFGS(
            variables,
            lr=self.lr,
            max_iter=self.inner,
            history_size=self.history,
            line_search_fn=None if self.line_search == "none" else self.line_search,
            tolerance_grad=self.tolerance_grad,
            tolerance_change=self.tolerance_change,
        )
        progress = 0.0
        last = math.inf

        def closure() -> float:
            nonlocal last
            value = objective(progress)
            differentiate(value, variables)
            last = float(value.detach())
            return last

        for step in range(self.steps):
            progress = step / self.steps
            before = [v.detach().clone() for v in variables]
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                project()
            stuck = all(torch.equal(a, b) for a, b in zip(before, variables, strict=True))
            if not math.isfinite(last) or last <= tolerance or stuck:
                return


@dataclass(frozen=True, kw_only=True)
class SignedAdam:
    """Adam on the sign of the gradient, the rate cut tenfold at 3/8, 5/8 and 7/8 of the steps (Geiping et al. 2020)."""

    steps: int = 24_000
    lr: float = 0.1

    @property
    def evaluations(self) -> int:
        return self.steps

    def run(
        self,
        objective: Objective,
        variables: list[Tensor],
        *,
        project: Callable[[], None],
        tolerance: float,
    ) -> None:
        optimizer = torch.optim.Adam(variables, lr=self.lr)
        milestones = [self.steps * k // 8 for k in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        for step in range(self.steps):
            value = objective(step / self.steps)
            number = float(value.detach())
            if not math.isfinite(number) or number <= tolerance:
                return
            differentiate(value, variables)
            for variable in variables:
                assert variable.grad is not None
                variable.grad.sign_()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                project()
