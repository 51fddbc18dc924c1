"""DCS-2: an invented example stands beside each private one."""

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
"""Least factor of the private gradient in the sum with a gradient that points against it."""
EPSILON = 1e-3
"""Added to the squared length of the private gradient, so that a zero gradient can be divided by."""


@dataclass(frozen=True, kw_only=True)
class DCS2(Undefended):
    r"""Train on an invented example beside each private one (DCS-2).

    It acts on the gradient computation. The client invents an example of another class for each
    private example. The gradient of the invented example points in the same direction, but the
    example looks different.

    .. math::

        &\min_{x_c} \; 1 - \cos\big(\nabla L(x_c, y_c), \nabla L(x, y)\big) + e^{-w \|x_c - x\|}
        + z \, \frac{\|f(x_c) - f(x)\|}{\|f(x)\|} \\
        &g_c = \frac{1}{3} \nabla \big( L(x, y) + \mu \, L(x_c, y_c) + (1 - \mu) \, L(x_c, y) \big)

    Here :math:`x, y` are a private example and its label, :math:`x_c, y_c` the invented ones,
    :math:`f` the network and :math:`L` its loss. :math:`\mu` is `mixing`, :math:`w` is `apart`, and
    :math:`z` is `alike`. If :math:`\mu` is 0 or 1, the divisor 3 becomes 2. Adam starts from
    :math:`\mu n + (1 - \mu) x`, where :math:`n` is uniform noise.

    The shared gradient :math:`g_c` must not point against the private gradient
    :math:`g = \nabla L(x, y)`. If :math:`\langle g_c, g \rangle < 0`, the client shares
    :math:`g_c + v g` with :math:`v = \max(1/2, -\langle g_c, g \rangle / \|g\|^2)`.

    The method follows the authors' code, with three changes:

    - Their default for :math:`n` is another example of the client, and noise is an option. A
      defense has no data beside the batch, so noise is used here.
    - Every example of the batch is concealed.
    - Values are in [0, 1] instead of normalized. So distances are about four times shorter.

    We could not check where the paper differs from the code.

    An adaptive adversary reads the invented label from the update. Then it matches both examples,
    with the client's weights. The attack `ConcealmentMatching` does this.

    Args:
        mixing: Weight of the invented class in the invented example's target, in [0, 1].
        steps: Steps of Adam, at least 0.
        learning_rate: Step size of Adam, above 0, in the data's own units.
        apart: Rate w, at least 0, in the term that rewards distance. Distances are in the data's
            own units.
        alike: Weight z, at least 0, of the term that asks for equal outputs of the network.
        enough: Mean distance, above 0, at which the search stops, in the data's own units. The
            default 120 is about the authors' 500 for normalized CIFAR-10. Nothing keeps invented
            examples in the data's range.

    Raises:
        ModelError: The targets are not class labels (B,) of at least two classes.
        SpecificationError: The client shares something else than one gradient.

    References:
        Wu, Hayat, Zhou, Harandi. Concealing Sensitive Samples against Gradient Leakage in Federated
        Learning. AAAI 2024. arXiv:2209.05724.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.DCS2(steps=5)
        >>> observation = lg.examples.observation(batch_size=1, defense=defense)
        >>> observation.update.kind, defense.divisor
        ('gradient', 3.0)
    """

    strength: ClassVar[str] = "mixing"
    claim: ClassVar[Claim] = Claim(
        "each example, by an invented example beside it, with another label and a similar gradient",
        "anyone who sees the update",
        "reads the invented label from the update and matches both examples, with the client's weights "
        "(attack concealment_matching)",
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
        """Number by which the sum of the losses is divided."""
        return 3.0 if 0 < self.mixing < 1 else 2.0

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        if not isinstance(training, SingleGradient):
            raise not_one_gradient(self, training)
        return _Concealed(training, self, seeds)


@dataclass(frozen=True)
class _Concealed(Wrapper):
    """Local training on the batch and on its invented examples."""

    training: SingleGradient
    defense: DCS2
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the shared gradient.

        Raises:
            ModelError: The targets are not class labels (B,) of at least two classes.
        """
        check_real(task.inputs, "defense DCS2")
        task = replace(task, create_graph=False)
        others = self.draw_labels(task.model, task.inputs, task.targets)
        own = task.by(self.training)
        invented = self.invent(task, others, own)
        mu = self.defense.mixing
        parts = [
            (1.0, own),
            (mu, task.by(self.training, inputs=invented, targets=others)),
            (1 - mu, task.by(self.training, inputs=invented)),
        ]
        mixed = {n: sum_of([w * t[n] for w, t in parts]) / self.defense.divisor for n in own}
        return project(mixed, own)

    def draw_labels(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Draw another class for each label."""
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

    def invent(self, task: Task, others: Tensor, own: Tensors) -> Tensor:
        """Return examples `(B, *shape)` that conceal those of the task.

        Args:
            task: The private examples `(B, *shape)`, with model and loss.
            others: Labels (B,) of the invented examples.
            own: Gradient of the private examples.
        """
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
    """Return the sum of tensors of one shape."""
    return torch.stack(tensors).sum(0)


def inner(one: Tensors, other: Tensors) -> Tensor:
    """Return the inner product of two updates."""
    return torch.stack([(t * other[n]).sum() for n, t in one.items()]).sum()


def cosine(one: Tensors, other: Tensors) -> Tensor:
    """Return the cosine of the angle between two updates."""
    return inner(one, other) / (inner(one, one) * inner(other, other)).sqrt().clamp_min(1e-12)


def project(mixed: Tensors, own: Tensors) -> Tensors:
    """Return `mixed`, plus a multiple of `own` if the two gradients point against each other.

    The factor of `own` is at least `MARGIN`, and large enough that the sum does not point against
    `own`.
    """
    against = float(inner(mixed, own))
    if against >= 0:
        return mixed
    fraction = max(MARGIN, -against / (float(inner(own, own)) + EPSILON))
    return {name: t + fraction * own[name] for name, t in mixed.items()}
