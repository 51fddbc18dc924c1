"""Adam with a rate that falls in steps, and moves between the steps that no gradient shows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.inversion.descents.descent import (
    Ending,
    Evaluation,
    FixedSteps,
    Request,
    Run,
    Setting,
    should_stop,
)
from leakgauge.inversion.evaluation.problem import Variables

Leaves = list[Tensor]
"""The variables of an optimizer, which are changed in place."""
Between = Generator[Request, Evaluation, None]
"""What a descent does between two steps."""


@dataclass(frozen=True, kw_only=True)
class Adam(FixedSteps):
    """Adam, with a decay of the weights and a rate that falls in steps.

    Args:
        steps: Number of steps, at least 1.
        lr: Learning rate, above 0, in units of the variables.
        decay: Factor, in (0, 1], by which the rate falls every `every` steps.
        every: Number of steps, at least 1, between two falls of the rate.
        weight_decay: Decay of the variables in each step, at least 0, in units of the rate (AdamW).

    References:
        Kingma, Ba. Adam: A Method for Stochastic Optimization. ICLR 2015. arXiv:1412.6980.

        Loshchilov, Hutter. Decoupled Weight Decay Regularization. ICLR 2019. arXiv:1711.05101.

    Example:
        >>> from leakgauge.inversion import Adam
        >>> descent = Adam(steps=100, lr=0.2, decay=0.5, every=50)
        >>> [descent.rate(step) for step in (0, 49, 50)]
        [0.2, 0.2, 0.1]
    """

    steps: int = 1000
    lr: float = 0.1
    decay: float = 1.0
    every: int = 50
    weight_decay: float = 0.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return float(self.lr * self.decay ** (step // self.every))

    def run(self, start: Variables, setting: Setting) -> Run:
        variables = [v.detach().clone().requires_grad_() for v in start]
        optimizer = torch.optim.AdamW(variables, lr=self.lr, weight_decay=self.weight_decay)
        yield from self.begin(variables, setting)
        for step in range(self.steps):
            evaluation = yield Request(copied(variables), step / self.steps)
            if should_stop(evaluation.value, setting):
                break
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
            for variable, gradient in zip(variables, evaluation.gradient, strict=True):
                variable.grad = gradient
            optimizer.step()
            with torch.no_grad():
                setting.project(tuple(variables))
            yield from self.move(step + 1, variables, setting)
        return Ending()

    def begin(self, variables: Leaves, setting: Setting) -> Between:
        """Change the variables in place before the first step."""
        yield from ()

    def move(self, step: int, variables: Leaves, setting: Setting) -> Between:
        """Change the variables in place after some steps."""
        yield from ()


def copied(variables: Leaves) -> Variables:
    """Return copies of the variables without a graph."""
    return tuple(v.detach().clone() for v in variables)


Propose = Callable[[Tensor, torch.Generator], Tensor]
"""A function from the inputs' variables to changed ones."""
Judge = Callable[[Tensor], float]
"""A function from the inputs' variables to a number that is added to the objective of a move."""


@dataclass(frozen=True, kw_only=True)
class MovingAdam(Adam):
    """Adam from the best of several starts, with moves between its steps that the objective chooses.

    After a first part of the steps, it proposes changes of the inputs' variables from time to time.
    The change with the lowest objective is kept if it is lower than that of no change. LAMP moves
    tokens of a sentence in this way.

    Args:
        steps: Number of steps, at least 1.
        lr: Learning rate, above 0, in units of the variables.
        decay: Factor, in (0, 1], by which the rate falls every `every` steps.
        every: Number of steps, at least 1, between two falls of the rate.
        weight_decay: Decay of the variables in each step, at least 0, in units of the rate.
        propose: Returns changed variables, from the present ones and a source of random numbers.
        judge: What is added to the objective of a proposal, such as the perplexity of its text. The
            default adds nothing.
        starts: Number of random starts, at least 1. The best one is taken.
        noise: Standard deviation of the variables at further starts, at least 0.
        tries: Number of proposals at a time, at least 0.
        period: Number of steps between proposals, at least 1.
        after: Fraction of the steps before the first proposals, from 0 to 1.

    References:
        Balunović, Dimitrov, Jovanović, Vechev. LAMP: Extracting Text from Gradients with Language
        Model Priors. NeurIPS 2022, algorithm 1. arXiv:2202.08827.

    Example:
        >>> from leakgauge.inversion import MovingAdam
        >>> def backward(variables, generator):
        ...     return variables.flip(1)
        >>> descent = MovingAdam(steps=100, propose=backward, tries=4, period=25, after=0.2)
        >>> [step for step in range(101) if descent.moves_at(step)]
        [25, 50, 75, 100]
    """

    propose: Propose
    judge: Judge | None = None
    starts: int = 1
    noise: float = 1.0
    tries: int = 200
    period: int = 75
    after: float = 0.1

    @property
    def evaluations(self) -> int:
        return self.steps + self.bound_of_moves

    @property
    def bound(self) -> int:
        return self.evaluations

    @property
    def bound_of_moves(self) -> int:
        """Number of evaluations beside those of the steps."""
        times = sum(self.moves_at(step) for step in range(1, self.steps + 1))
        return (self.starts if self.starts > 1 else 0) + times * (self.tries + 1)

    def moves_at(self, step: int) -> bool:
        """Return whether changes are proposed after this number of steps."""
        return self.tries > 0 and step % self.period == 0 and self.after * self.steps < step

    def begin(self, variables: Leaves, setting: Setting) -> Between:
        """Take the best of several starts."""
        best, inputs = float("inf"), variables[0].detach().clone()
        for index in range(self.starts if self.starts > 1 else 0):
            drawn = inputs.clone()
            if index > 0:
                shape = inputs.shape
                fresh = torch.randn(shape, generator=setting.generator, dtype=torch.float32)
                drawn = self.noise * fresh.to(inputs)
            tried = (drawn, *copied(variables[1:]))
            value = (yield Request(tried, 0.0, slope=False)).value
            if value < best:
                best = value
                with torch.no_grad():
                    variables[0].copy_(drawn)

    def move(self, step: int, variables: Leaves, setting: Setting) -> Between:
        """Take the best of the proposals, if it is better than the present variables."""
        if not self.moves_at(step):
            return
        best, present = float("inf"), variables[0].detach().clone()
        for index in range(self.tries + 1):
            tried = present if index == 0 else self.propose(present.clone(), setting.generator)
            request = Request(
                (tried, *copied(variables[1:])), min(step, self.steps - 1) / self.steps, slope=False
            )
            value = (yield request).value
            value += 0.0 if self.judge is None else self.judge(tried)
            if value < best:
                best = value
                with torch.no_grad():
                    variables[0].copy_(tried)
