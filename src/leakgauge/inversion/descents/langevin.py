"""Adam with warm-up, cosine decay and Langevin noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leakgauge.inversion.descents.descent import (
    Ending,
    FixedSteps,
    Request,
    Run,
    Setting,
    should_stop,
)
from leakgauge.inversion.evaluation.problem import Variables


@dataclass(frozen=True, kw_only=True)
class LangevinAdam(FixedSteps):
    r"""Adam with a warm-up, a cosine decay, and noise that leads out of local minima.

    .. math::

        x_{t+1} = x_t - r_t \operatorname{adam}(\nabla_t) + r_t \, \sigma \, \eta_t, \qquad
        \eta_t \sim \mathcal{N}(0, 1)

    Here :math:`x_t` are the variables at step t, and :math:`\nabla_t` is the objective's gradient.
    The learning rate is :math:`r_t`, and :math:`\sigma` is `noise`. With :math:`W` for `warmup` and
    :math:`T` for `steps`, the rate is

    .. math::

        r_t = \begin{cases}
        \mathrm{lr} \, (t + 1) / W & t < W \\
        \mathrm{lr} \, (1 + \cos(\pi (t - W) / (T - W))) / 2 & t \ge W
        \end{cases}

    So the noise vanishes with the rate. Use it with many restarts and a `Consensus`, as
    GradInversion does.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Largest learning rate, above 0, in units of the variables. The default is the paper's.
        warmup: Number of steps in which the rate grows, at least 0.
        noise: Standard deviation of the noise in units of the rate, at least 0. The default is the
            paper's.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021, section 3. arXiv:2104.07586.

    Example:
        >>> from leakgauge.inversion import LangevinAdam
        >>> descent = LangevinAdam(steps=100, lr=0.1, warmup=10)
        >>> [round(descent.rate(step), 3) for step in (0, 10, 55, 99)]
        [0.01, 0.1, 0.05, 0.0]
    """

    steps: int = 20_000
    lr: float = 0.1
    warmup: int = 50
    noise: float = 0.2

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def run(self, start: Variables, setting: Setting) -> Run:
        variables = [v.detach().clone().requires_grad_() for v in start]
        optimizer = torch.optim.Adam(variables, lr=self.lr)
        for step in range(self.steps):
            evaluation = yield Request(
                tuple(v.detach().clone() for v in variables), step / self.steps
            )
            if should_stop(evaluation.value, setting):
                break
            rate = self.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for variable, gradient in zip(variables, evaluation.gradient, strict=True):
                variable.grad = gradient
            optimizer.step()
            with torch.no_grad():
                for variable in variables if self.noise > 0 else ():
                    drawn = torch.randn(variable.shape, generator=setting.generator)
                    variable.add_(drawn.to(variable), alpha=rate * self.noise)
                setting.project(tuple(variables))
        return Ending()
