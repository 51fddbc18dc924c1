"""What BatchNorm layers in train mode remember of a batch, and the batch's own statistics worked out of it.

    r <- (1 - m) r + m s              s: mean, or unbiased variance, of a minibatch over examples and places
    r_K = (1 - m)^K r_0 + sum_k m (1 - m)^(K - 1 - k) s_k,  k = 0 ... K - 1
    without momentum:  r_K = (n r_0 + sum_k s_k) / (n + K), n steps having gone before

Ioffe, Szegedy: Batch Normalization, ICML 2015, as torch.nn.BatchNorm keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leakgauge.core import KnowledgeError, Tensors
from leakgauge.core.summaries import Summarized

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Summarized):
    """Mean and unbiased variance of what a layer is given, (C,) each, over examples and places.

    The biased variance is (n - 1) / n of it, for n values per channel: examples times places.
    """

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> Moments:
        """Of inputs (B, C, ...), at least two values per channel; differentiable."""
        every = [axis for axis in range(inputs.ndim) if axis != 1]
        return cls(inputs.mean(every), inputs.var(every))


def normalizers(model: nn.Module, *, training: bool = True) -> dict[str, BatchNorm]:
    """The BatchNorm layers with running statistics, by name: those in train mode, or all."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm)
        and module.running_mean is not None
        and (module.training or not training)
    }


def check_normalizers(model: nn.Module) -> None:
    """Raise KnowledgeError where no layer takes statistics of the batch, so that there are none to share."""
    if not normalizers(model):
        raise KnowledgeError(
            "threat model",
            expected="a model with BatchNorm in train mode, to grant statistics",
            found=f"{type(model).__name__} without",
            remedy="set model.train = true, or threat.statistics = false",
        )


@contextmanager
def carried(model: nn.Module) -> Iterator[Callable[[], Tensors]]:
    """Inside, local training of `model` moves running statistics from step to step, as a client's does.

    The operators of local training start each step from the model's own buffers, on which no update in
    train mode depends. Yields what gives the buffers of `normalizers` after the last step, copies; the
    model's own stay as they were.
    """
    layers = normalizers(model)
    held = {key: buffer.clone() for key, buffer in _buffers(layers)}

    def before(module: nn.Module, arguments: Any) -> None:
        for key, buffer in _buffers(layers):
            buffer.copy_(held[key])

    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        held.update({key: buffer.detach().clone() for key, buffer in _buffers(layers)})

    hooks = model.register_forward_pre_hook(before), model.register_forward_hook(after)
    try:
        yield lambda: dict(held)
    finally:
        for hook in hooks:
            hook.remove()


def _buffers(layers: Mapping[str, BatchNorm]) -> Iterator[tuple[str, Tensor]]:
    for name, layer in layers.items():
        yield from layer.named_buffers(prefix=name)


def batch_statistics(model: nn.Module, after: Tensors) -> dict[str, Moments]:
    """The private batch's moments at each BatchNorm layer, from running statistics before and after.

    `model` holds those before; `after` maps buffers' names to those after. Exact for one step of one
    client. For K steps, the weighted mean of theirs, later steps weighing more; for an aggregate, the
    clients' mean. A layer that took no step, or whose momentum is 0, says nothing and is left out.
    """
    found = {}
    for name, layer in normalizers(model).items():
        steps, momentum = steps_between(name, layer, after), layer.momentum
        if steps == 0 or momentum == 0:
            continue
        taken = float(layer.num_batches_tracked)  # type: ignore[arg-type]
        kept = taken / (taken + steps) if momentum is None else (1 - momentum) ** steps

        def moved(buffer: str, kept: float = kept, name: str = name) -> Tensor:
            old, new = model.get_buffer(_key(name, buffer)), after[_key(name, buffer)]
            return ((new.double() - kept * old.double()) / (1 - kept)).to(old)

        # Rounding may leave the variance of a channel that never changes a little below 0.
        found[name] = Moments(moved("running_mean"), moved("running_var").clamp_min(0))
    return found


def running(model: nn.Module) -> dict[str, Moments]:
    """The moments that the model's own BatchNorm layers hold: those of the data it was trained on."""
    found = {}
    for name, layer in normalizers(model, training=False).items():
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None, "normalizers() leaves such layers out"
        assert variance is not None, "kept beside the mean"
        found[name] = Moments(mean.detach().clone(), variance.detach().clone())
    return found


def steps_between(name: str, layer: BatchNorm, after: Tensors) -> int:
    """How many times a layer was run from its own running statistics to those `after`."""
    before = layer.num_batches_tracked
    assert before is not None, "kept beside the mean"
    return int(after[_key(name, "num_batches_tracked")]) - int(before)


def middle(momentum: float | None, steps: int) -> float:
    """Where along K steps, 0 to 1, the moments of `batch_statistics` were taken: sum_k w_k k / K, weights as above."""
    keep = 1.0 if momentum is None else 1 - momentum
    weights = [keep ** (steps - 1 - k) for k in range(steps)]
    return sum(w * k for k, w in enumerate(weights)) / (steps * sum(weights))


def averaged(statistics: list[Tensors], counts: list[int]) -> Tensors:
    """Clients' running statistics as federated averaging of buffers makes them one: weighted by examples."""
    total, found = sum(counts), {}
    for name, like in statistics[0].items():
        pairs = zip(statistics, counts, strict=True)
        mean = torch.stack([one[name].double() * count / total for one, count in pairs]).sum(0)
        found[name] = (mean if like.is_floating_point() else mean.round()).to(like)
    return found


def adopt(model: nn.Module, statistics: Tensors) -> None:
    """Set the model's buffers of these names, in place."""
    for name, value in statistics.items():
        model.get_buffer(name).copy_(value)


def _key(name: str, buffer: str) -> str:
    """The model itself may be the layer."""
    return f"{name}.{buffer}" if name else buffer
