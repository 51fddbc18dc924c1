"""FedAvg: several local steps of SGD, whose weight difference is shared.

The derivative of the update uses the adjoint method. The forward pass keeps the state before each
step. The backward pass computes each step again. So memory holds the graph of only one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from leakgauge.core import DataError, LocalTraining, Loss, Seeds, Tensors, UpdateKind, trainable
from leakgauge.core.ranges import Count, NonNegative, Positive, check_ranges
from leakgauge.federated.training.fedsgd import FedSGD

MOST_STEPS = 1_000_000
"""Most local steps of one client. Published protocols use far fewer."""
State = tuple[Tensor, ...]
"""Parameters, then their velocities if there is momentum."""


@dataclass(frozen=True)
class Step:
    """One local step.

    Args:
        examples: Indices of the examples of the minibatch, in order.
        learning_rate: Step size.
    """

    examples: tuple[int, ...]
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    r"""Several local steps of SGD over minibatches. The client shares its weight difference.

    Use it for clients that train before they share. `FedSGD` shares one gradient instead. In each
    local epoch :math:`e`, for each minibatch :math:`b`:

    .. math::

        v \leftarrow m \, v + \nabla L(w; b) + d \, w, \qquad w \leftarrow w - \eta \, \gamma^e \, v

    The client shares :math:`w_{\mathrm{end}} - w_{\mathrm{start}}`. Here :math:`w` are the weights,
    :math:`v` is the velocity, :math:`m` is `momentum`, :math:`d` is `weight_decay`, :math:`\eta` is
    `learning_rate`, and :math:`\gamma` is `decay`.

    Args:
        epochs: Number of passes over the batch, from 1 to 1,000,000.
        minibatch: Number of examples in a local step, at least 1. None is the whole batch.
        learning_rate: Step size, above 0.
        momentum: Factor of the velocity, at least 0. 0 is plain SGD.
        weight_decay: Factor of the weights that is added to the gradient, at least 0.
        decay: Factor of the learning rate after each epoch, above 0. 1 keeps it constant.
        shuffle: Whether the client draws a new order of the examples for each epoch. False keeps the
            order of the batch.
        orders: The order of each epoch, once `draw_orders` has drawn them. Otherwise empty.

    Raises:
        SpecificationError: An option lies outside its range.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-Efficient Learning of Deep
        Networks from Decentralized Data. AISTATS 2017, algorithm 1. arXiv:1602.05629.

    Example:
        >>> import leakgauge as lg
        >>> training = lg.FedAvg(epochs=2, minibatch=2, learning_rate=0.1)
        >>> training.count_steps(5)
        6
        >>> lg.examples.observation(batch_size=5, training=training).update.kind
        'delta'
    """

    epochs: Annotated[int, Ge(1), Le(MOST_STEPS)] = 1
    minibatch: Count | None = None
    learning_rate: Positive = 0.01
    momentum: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    decay: Positive = 1.0
    shuffle: bool = False
    orders: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        """Raise SpecificationError if an option lies outside its range."""
        check_ranges(self)

    @property
    def kind(self) -> UpdateKind:
        """The word "delta", since the update is a weight difference."""
        return "delta"

    def draw_orders(self, count: int, *, seeds: Seeds) -> FedAvg:
        """Return this training with drawn orders for `count` examples, or unchanged if it does not shuffle."""
        if not self.shuffle:
            return self
        generator = seeds.generator("local order")
        orders = tuple(
            tuple(torch.randperm(count, generator=generator).tolist()) for _ in range(self.epochs)
        )
        return replace(self, shuffle=False, orders=orders)

    def steps(self, count: int) -> list[Step]:
        """Return all local steps on `count` examples.

        Raises:
            DataError: The orders were drawn for another count, or there are more than MOST_STEPS steps.
        """
        found = []
        size = self.minibatch or count
        total = self.epochs * -(-count // size)
        if total > MOST_STEPS:
            raise DataError(
                "local training",
                expected=f"at most {MOST_STEPS:,} local steps",
                found=f"{total:,}: {self.epochs:,} epochs over minibatches of {size:,} of {count:,} examples",
                remedy="lower epochs, or raise minibatch",
            )
        for epoch in range(self.epochs):
            order = self.orders[epoch] if self.orders else tuple(range(count))
            if len(order) != count:
                raise DataError(
                    "local training",
                    expected=f"{len(order)} examples, for which the orders were drawn",
                    found=f"{count} examples",
                    remedy="draw the orders for this batch",
                )
            rate = self.learning_rate * self.decay**epoch
            found += [Step(order[i : i + size], rate) for i in range(0, count, size)]
        return found

    def multiplier(self, count: int) -> float:
        """Return the size of the update relative to a gradient that is constant over all steps.

        The update is then `-multiplier` times the gradient.
        """
        velocity = total = 0.0
        for step in self.steps(count):
            velocity = self.momentum * velocity + 1
            total += step.learning_rate * velocity
        return total

    def count_steps(self, count: int) -> int:
        """Return the number of local steps on `count` examples."""
        return len(self.steps(count))

    def ignores_order(self, count: int) -> bool:
        """Return whether each step uses all `count` examples, so that their order does not matter."""
        return (self.minibatch or count) >= count

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """Return the weight difference `w_end - w_start` by parameter name. The model does not change.

        Args:
            model: The network at `w_start`.
            loss: A function of outputs and targets.
            inputs: Examples `(B, *shape)`.
            targets: Targets (B,) or (B, K).
            create_graph: Whether the result can be differentiated with respect to inputs and targets.

        Raises:
            ModelError: The loss is not a scalar.
        """
        names = list(trainable(model))
        start = tuple(p.detach() for p in trainable(model).values())
        local = _Local(self, model, loss, names)
        end = _Unrolled.apply(local, inputs, targets, *start)  # type: ignore[no-untyped-call]
        update = {name: e - s for name, e, s in zip(names, end, start, strict=True)}
        return update if create_graph else {name: t.detach() for name, t in update.items()}


@dataclass(frozen=True, kw_only=True)
class EpochsApart(FedAvg):
    """FedAvg with a separate batch for each of E epochs: inputs `(E * B, *shape)`, epoch after epoch."""

    @classmethod
    def of(cls, training: FedAvg) -> EpochsApart:
        """Return this training with the hyperparameters of another one."""
        return cls(**{field.name: getattr(training, field.name) for field in fields(training)})

    def steps(self, count: int) -> list[Step]:
        """Return all local steps on `count` examples. Each epoch uses only its own part of them."""
        each = count // self.epochs
        steps = super().steps(each)
        per_epoch = len(steps) // self.epochs
        return [
            replace(step, examples=tuple(i + each * (k // per_epoch) for i in step.examples))
            for k, step in enumerate(steps)
        ]


@dataclass(frozen=True)
class _Local:
    """One client's training as a function of its state, step by step."""

    training: FedAvg
    model: nn.Module
    loss: Loss
    names: list[str]

    def begin(self, parameters: State) -> State:
        """Return the state before the first step."""
        if self.training.momentum == 0:
            return parameters
        return parameters + tuple(torch.zeros_like(p) for p in parameters)

    def step(
        self, state: State, step: Step, inputs: Tensor, targets: Tensor, *, create_graph: bool
    ) -> State:
        """Return the state after one step."""
        count, training = len(self.names), self.training
        parameters, velocities = state[:count], state[count:]
        leaves = tuple(p if p.requires_grad else p.requires_grad_() for p in parameters)
        some = torch.tensor(step.examples, device=inputs.device)
        value = FedSGD().scalar(
            self.model,
            self.loss,
            dict(zip(self.names, leaves, strict=True)),
            inputs[some],
            targets[some],
        )
        slopes = torch.autograd.grad(
            value, leaves, create_graph=create_graph, materialize_grads=True
        )
        moves = tuple(
            g + training.weight_decay * p for g, p in zip(slopes, parameters, strict=True)
        )
        if velocities:
            moves = tuple(training.momentum * v + g for v, g in zip(velocities, moves, strict=True))
        after = tuple(p - step.learning_rate * g for p, g in zip(parameters, moves, strict=True))
        return after + (moves if velocities else ())


class _Unrolled(torch.autograd.Function):
    """All local steps: forward without a graph, backward with the graph of one step at a time."""

    @staticmethod
    def forward(ctx: Any, local: _Local, inputs: Tensor, targets: Tensor, *start: Tensor) -> Any:
        """Return the parameters after the last step."""
        steps = local.training.steps(len(inputs))
        state, states, draws = local.begin(start), [], []
        for step in steps:
            states.append(state)
            draws.append(_Draws(inputs.device))
            with torch.enable_grad():
                held = tuple(t.detach() for t in state)
                moved = local.step(
                    held, step, inputs.detach(), targets.detach(), create_graph=False
                )
            state = tuple(t.detach() for t in moved)
        ctx.local, ctx.steps, ctx.states, ctx.draws = local, steps, states, draws
        ctx.save_for_backward(inputs, targets)
        return state[: len(start)]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Return the gradients of inputs and soft targets, given those of the final parameters."""
        inputs, targets = (t.detach() for t in ctx.saved_tensors)
        soft = targets.is_floating_point()
        sums = [torch.zeros_like(t) for t in ((inputs, targets) if soft else (inputs,))]
        along = list(slopes) + [torch.zeros_like(t) for t in ctx.states[0][len(slopes) :]]
        for step, state, draws in zip(
            reversed(ctx.steps), reversed(ctx.states), reversed(ctx.draws), strict=True
        ):
            with torch.enable_grad(), draws.again():
                held = [t.detach().requires_grad_() for t in state]
                moving = [t.detach().requires_grad_() for t in ((inputs, targets)[: len(sums)])]
                moved = ctx.local.step(
                    tuple(held), step, moving[0], moving[1] if soft else targets, create_graph=True
                )
                found = torch.autograd.grad(moved, [*held, *moving], along, materialize_grads=True)
            along = list(found[: len(held)])
            for total, more in zip(sums, found[len(held) :], strict=True):
                total += more
        return (None, sums[0], sums[1] if soft else None, *([None] * len(slopes)))


class _Draws:
    """The state of the generators before a step. With it, a model in train mode can draw the same numbers again."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(d) for d in self.devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Set the generators to this state inside, and restore them on exit."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def first_epoch(training: LocalTraining) -> LocalTraining:
    """Return FedAvg with only its first epoch, and any other local training unchanged."""
    if type(training) is not FedAvg:
        return training
    return replace(training, epochs=1, orders=training.orders[:1])
