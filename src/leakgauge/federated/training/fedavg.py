"""FedAvg. McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep
Networks from Decentralized Data, AISTATS 2017, algorithm 1.

    for each local epoch, for each minibatch b:   v <- m v + grad L(w; b) + d w,   w <- w - lr v
    shared: w_end - w_start

Unrolled by its adjoint: states are kept and each step is computed anew on the way back, so that memory
holds one step's graph however many steps there are.
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
"""Local steps of one client: a limit that no published protocol comes near."""
State = tuple[Tensor, ...]
"""Parameters, then velocities where there is momentum."""


@dataclass(frozen=True)
class Step:
    """One local step: which examples, in which order, at which learning rate."""

    examples: tuple[int, ...]
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Local SGD for `epochs` over minibatches of so many examples (the whole batch where None); shares w_end - w_start.

    The learning rate is multiplied by `decay` after each epoch. Where `shuffle`, each epoch visits the
    examples in an order of its own, which `drawn` fixes in `orders`; until then, in the batch's order.
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
        return "delta"

    def drawn(self, count: int, *, seeds: Seeds) -> FedAvg:
        """The same training of `count` examples with its orders drawn, where it shuffles."""
        if not self.shuffle:
            return self
        generator = seeds.generator("local order")
        orders = tuple(
            tuple(torch.randperm(count, generator=generator).tolist()) for _ in range(self.epochs)
        )
        return replace(self, shuffle=False, orders=orders)

    def steps(self, count: int) -> list[Step]:
        """Return every local step on `count` examples.

        Raises:
            DataError: the drawn orders are of another count, or there are more than MOST_STEPS steps.
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
                    expected=f"{len(order)} examples, as its orders were drawn for",
                    found=str(count),
                    remedy="draw the orders for this batch",
                )
            rate = self.learning_rate * self.decay**epoch
            found += [Step(order[i : i + size], rate) for i in range(0, count, size)]
        return found

    def multiplier(self, count: int) -> float:
        """What w_end - w_start is of a gradient that stays the same over all steps, but for the sign."""
        velocity = total = 0.0
        for step in self.steps(count):
            velocity = self.momentum * velocity + 1
            total += step.learning_rate * velocity
        return total

    def taken(self, count: int) -> int:
        """How many steps it takes on `count` examples."""
        return len(self.steps(count))

    def whole(self, count: int) -> bool:
        """Whether each step sees all of `count` examples, so that their order does not matter."""
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
        """w_end - w_start by parameter name; inputs (B, *shape), targets (B,) or (B, K).

        Raises ModelError where the loss is not a scalar. The model is left as it was.
        """
        names = list(trainable(model))
        start = tuple(p.detach() for p in trainable(model).values())
        local = _Local(self, model, loss, names)
        end = _Unrolled.apply(local, inputs, targets, *start)  # type: ignore[no-untyped-call]
        update = {name: e - s for name, e, s in zip(names, end, start, strict=True)}
        return update if create_graph else {name: t.detach() for name, t in update.items()}


@dataclass(frozen=True, kw_only=True)
class EpochsApart(FedAvg):
    """The same steps on a batch of its own for each epoch: inputs (E B, *shape), epoch after epoch."""

    @classmethod
    def of(cls, training: FedAvg) -> EpochsApart:
        """Of another's hyperparameters."""
        return cls(**{field.name: getattr(training, field.name) for field in fields(training)})

    def steps(self, count: int) -> list[Step]:
        """Every local step on `count` examples, of which each epoch sees its share alone."""
        each = count // self.epochs
        steps = super().steps(each)
        per_epoch = len(steps) // self.epochs
        return [
            replace(step, examples=tuple(i + each * (k // per_epoch) for i in step.examples))
            for k, step in enumerate(steps)
        ]


@dataclass(frozen=True)
class _Local:
    """One client's training, step by step, as a function of its state."""

    training: FedAvg
    model: nn.Module
    loss: Loss
    names: list[str]

    def begin(self, parameters: State) -> State:
        """The state before the first step."""
        if self.training.momentum == 0:
            return parameters
        return parameters + tuple(torch.zeros_like(p) for p in parameters)

    def step(
        self, state: State, step: Step, inputs: Tensor, targets: Tensor, *, create_graph: bool
    ) -> State:
        """The state after one step."""
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
    """All steps forward, without a graph; backward, one step's graph at a time, last first."""

    @staticmethod
    def forward(ctx: Any, local: _Local, inputs: Tensor, targets: Tensor, *start: Tensor) -> Any:
        """The parameters after the last step."""
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
        """Slopes at inputs and targets of the parameters' slopes."""
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
    """Where the generators stood before a step: a model in train mode draws the same numbers again."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(d) for d in self.devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, they stand there once more."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def first_epoch(training: LocalTraining) -> LocalTraining:
    """Return FedAvg with its first epoch alone, and any other local training as it is."""
    if type(training) is not FedAvg:
        return training
    return replace(training, epochs=1, orders=training.orders[:1])
