"""Adam with warm-up, cosine decay and Langevin noise.

    x_{t+1} = x_t - rate(t) adam(slope_t) + rate(t) noise eta_t,   eta_t ~ N(0, 1)
    rate(t) = lr (t + 1) / warmup                                         for t < warmup
            = lr (1 + cos(pi (t - warmup) / (steps - warmup))) / 2        after

Yin et al.: See through Gradients, CVPR 2021, section 3. The noise ends with the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leakgauge.inversion.descents.descent import Ending, FixedSteps, Request, Run, Setting, over
from leakgauge.inversion.evaluation.problem import Variables


@dataclass(frozen=True, kw_only=True)
class LangevinAdam(FixedSteps):
    """Adam on the gradient as it is; `noise` is the standard deviation of what is added, in units of the rate."""

    steps: int = 20_000
    lr: float = 0.1
    warmup: int = 50
    noise: float = 0.2

    def rate(self, step: int) -> float:
        """The rate of step 0 ... steps - 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def run(self, start: Variables, setting: Setting) -> Run:
        variables = [v.detach().clone().requires_grad_() for v in start]
        optimizer = torch.optim.Adam(variables, lr=self.lr)
        for step in range(self.steps):
            seen = yield Request(tuple(v.detach().clone() for v in variables), step / self.steps)
            if over(seen.value, setting):
                break
            rate = self.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for variable, gradient in zip(variables, seen.gradient, strict=True):
                variable.grad = gradient
            optimizer.step()
            with torch.no_grad():
                for variable in variables if self.noise > 0 else ():
                    drawn = torch.randn(variable.shape, generator=setting.generator)
                    variable.add_(drawn.to(variable), alpha=rate * self.noise)
                setting.project(tuple(variables))
        return Ending()
