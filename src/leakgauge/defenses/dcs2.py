"""DCS-2. Wu, Hayat, Zhou, Harandi: Concealing Sensitive Samples against Gradient Leakage in Federated Learning, AAAI
2024: an invented example beside each private one, whose gradient points as the private one's and which looks otherwise.

    x_c from  mu n + (1 - mu) x,   n noise,   by Adam on
        1 - cos(grad L(x_c, y_c), grad L(x, y))  +  exp(-w ||x_c - x||)  +  z (||f(x_c) - f(x)|| / ||f(x)|| - 0.01)
    g_c = grad 1/3 (L(x, y)  +  mu L(x_c, y_c) + (1 - mu) L(x_c, y));       1/2 where mu is 0 or 1
    where <g_c, g> < 0, g = grad L(x, y):   g_c + v g,   v = max(1/2, - <g_c, g> / ||g||^2)

As the authors' code has it, but that n is noise, an option of theirs, where their default is another client example
(a defense has no data beside the batch), that every example is private, and that values are in [0, 1] rather than
normalized, which makes distances about four times shorter. What of it the paper states otherwise we could not check.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from leakgauge.core import (
    Claim,
    ConcealedExamples,
    Effect,
    LocalTraining,
    ModelError,
    Seeds,
    SingleGradient,
    Tensors,
    trainable,
)
from leakgauge.core.ranges import NonNegative, Positive, Whole
from leakgauge.core.space import check_real
from leakgauge.defenses.base import Undefended, not_one_gradient
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.wrapper import Task, Wrapper

MARGIN = 0.5
EPSILON = 1e-3


@dataclass(frozen=True, kw_only=True)
class DCS2(Undefended):
    """One concealing example beside each of the batch; `mixing` mu in [0, 1], `steps` of Adam at `learning_rate`.

    `apart`: w, `alike`: z, of distances in the data's own units. The search ends where examples are farther apart
    than `enough` in the mean: 120 is about the authors' 500 of normalized CIFAR-10. Nothing keeps them in range.
    Class labels (B,) of at least two classes; raises ModelError of others, SpecificationError of several local steps.
    """

    strength: ClassVar[str] = "mixing"
    claim: ClassVar[Claim] = Claim(
        "each example beside an invented one of another label, whose gradient is much the same",
        "whoever sees the update",
        "reads the invented label and matches both examples, weighted as the client weighs them",
    )
    mixing: Annotated[float, Ge(0), Le(1)] = 0.7
    steps: Whole = 1000
    learning_rate: Positive = 0.1
    apart: NonNegative = 0.01
    alike: NonNegative = 0.01
    enough: Positive = 120.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (ConcealedExamples(mixing=self.mixing, divisor=self.divisor),)

    @property
    def divisor(self) -> float:
        """What the sum of the losses is divided by."""
        return 3.0 if 0 < self.mixing < 1 else 2.0

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        if not isinstance(training, SingleGradient):
            raise not_one_gradient(self, training)
        return _Concealed(training, self, seeds)


@dataclass(frozen=True)
class _Concealed(Wrapper):
    """Local training on the batch and its concealing examples."""

    training: SingleGradient
    defense: DCS2
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the concealed gradient. Raise ModelError unless the targets are class labels (B,)."""
        check_real(task.inputs, "defense DCS2")
        task = replace(task, create_graph=False)
        others = self.labels(task.model, task.inputs, task.targets)
        own = task.by(self.training)
        invented = self.invented(task, others, own)
        mu = self.defense.mixing
        parts = [
            (1.0, own),
            (mu, task.by(self.training, inputs=invented, targets=others)),
            (1 - mu, task.by(self.training, inputs=invented)),
        ]
        mixed = {n: sum_of([w * t[n] for w, t in parts]) / self.defense.divisor for n in own}
        return projected(mixed, own)

    def labels(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Another class for each label, drawn."""
        classes = stateless(model, trainable(model), inputs[:1]).shape[-1]
        if targets.ndim != 1 or targets.is_floating_point() or classes < 2:
            raise ModelError(
                "defense DCS2",
                expected="class labels (B,) of at least two classes",
                found=f"targets of shape {tuple(targets.shape)}, {classes} outputs",
                remedy="choose a defense that needs no labels",
            )
        generator = self.seeds.generator("dcs2 labels")
        step = torch.randint(1, classes, targets.shape, generator=generator)
        return (targets + step.to(targets)) % classes

    def invented(self, task: Task, others: Tensor, own: Tensors) -> Tensor:
        """Examples (B, *shape) of the labels `others` that conceal the task's, whose gradient is `own`."""
        defense, model, inputs = self.defense, task.model, task.inputs
        noise = torch.rand(inputs.shape, generator=self.seeds.generator("dcs2 start")).to(inputs)
        found = torch.lerp(inputs, noise, defense.mixing).requires_grad_()
        parameters = trainable(model)
        with torch.no_grad():
            outputs = stateless(model, parameters, inputs)
        descent = torch.optim.Adam([found], lr=defense.learning_rate)
        drops = [int(defense.steps * eighths / 8) for eighths in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(descent, drops, gamma=0.1)
        for _ in range(defense.steps):
            gradient = task.by(self.training, inputs=found, targets=others, create_graph=True)
            distance = (found - inputs).flatten(1).norm(dim=1).mean()
            answer = stateless(model, parameters, found)
            change = ((answer - outputs).norm(dim=1) / outputs.norm(dim=1)).mean()
            value = 1 - cosine(gradient, own) + torch.exp(-defense.apart * distance)
            value = value + defense.alike * change
            (found.grad,) = torch.autograd.grad(value, [found])
            descent.step()
            if float(distance.detach()) > defense.enough:
                break
            schedule.step()
        return found.detach()


def sum_of(tensors: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(tensors).sum(0)


def inner(one: Tensors, other: Tensors) -> Tensor:
    """The inner product of two updates."""
    return torch.stack([(t * other[n]).sum() for n, t in one.items()]).sum()


def cosine(one: Tensors, other: Tensors) -> Tensor:
    """That of the angle between two updates."""
    return inner(one, other) / (inner(one, one) * inner(other, other)).sqrt().clamp_min(1e-12)


def projected(mixed: Tensors, own: Tensors) -> Tensors:
    """`mixed`, and where it points against `own` so much of that added as turns it, at least half."""
    against = float(inner(mixed, own))
    if against >= 0:
        return mixed
    fraction = max(MARGIN, -against / (float(inner(own, own)) + EPSILON))
    return {name: t + fraction * own[name] for name, t in mixed.items()}
