r"""Running statistics of BatchNorm layers, and the statistics of a private batch computed from them.

A layer in train mode updates its running statistics :math:`r` in each step, with momentum :math:`m`:

.. math::

    r \leftarrow (1 - m) \, r + m \, s

Here :math:`s` is the mean, or the unbiased variance, of a minibatch over examples and places. After
:math:`K` steps with the statistics :math:`s_k`,

.. math::

    r_K = (1 - m)^K \, r_0 + \sum_{k=0}^{K-1} m \, (1 - m)^{K-1-k} \, s_k

Without momentum, and with :math:`n` earlier steps,

.. math::

    r_K = \frac{n \, r_0 + \sum_k s_k}{n + K}

Ioffe, Szegedy. Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift. ICML 2015. arXiv:1502.03167. Conventions as in torch.nn.BatchNorm.
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
    """Mean and unbiased variance of a layer's input, over examples and places.

    For n values per channel, examples times places, the biased variance is `(n - 1) / n` times the
    unbiased one.

    Args:
        mean: Mean of each channel (C,).
        variance: Unbiased variance of each channel (C,).
    """

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> Moments:
        """Compute the moments of inputs (B, C, ...), with at least two values per channel. Differentiable."""
        every = [axis for axis in range(inputs.ndim) if axis != 1]
        return cls(inputs.mean(every), inputs.var(every))


def normalizers(model: nn.Module, *, training: bool = True) -> dict[str, BatchNorm]:
    """Return the BatchNorm layers with running statistics, by name.

    If `training`, only layers in train mode are returned, else all.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm)
        and module.running_mean is not None
        and (module.training or not training)
    }


def check_normalizers(model: nn.Module) -> None:
    """Raise KnowledgeError if no layer computes statistics of the batch that could be granted."""
    if not normalizers(model):
        raise KnowledgeError(
            "threat model",
            expected="a model with BatchNorm in train mode, to grant statistics",
            found=f"{type(model).__name__} without it",
            remedy="set model.train = true, or threat.statistics = false",
        )


@contextmanager
def carry_statistics(model: nn.Module) -> Iterator[Callable[[], Tensors]]:
    """Carry the running statistics of `model` from step to step inside, as a client's training does.

    Without this context, each step of local training starts from the model's own buffers. An update
    in train mode does not depend on these buffers. The model's own buffers do not change.

    Yields:
        A function that returns copies of the buffers of `normalizers` after the last step, by name.
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
    """Yield the buffers of layers with their full names."""
    for name, layer in layers.items():
        yield from layer.named_buffers(prefix=name)


def batch_statistics(model: nn.Module, after: Tensors) -> dict[str, Moments]:
    """Return the moments of the private batch at each BatchNorm layer, by name of the layer.

    The result is exact for one step of one client. For K steps, it is the weighted mean of the steps'
    moments, with larger weights for later steps. For an aggregate, it is the mean over clients. A
    layer that took no step, or whose momentum is 0, is left out.

    Args:
        model: The model with the running statistics before local training.
        after: The running statistics after local training, by name of the buffer.
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

        # The variance of a constant channel may be slightly below 0 by rounding.
        found[name] = Moments(moved("running_mean"), moved("running_var").clamp_min(0))
    return found


def running_moments(model: nn.Module) -> dict[str, Moments]:
    """Return the running moments of the model's BatchNorm layers, by name. They describe its training data."""
    found = {}
    for name, layer in normalizers(model, training=False).items():
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None, "normalizers() leaves layers without running statistics out"
        assert variance is not None, "a layer with a running mean has a running variance"
        found[name] = Moments(mean.detach().clone(), variance.detach().clone())
    return found


def steps_between(name: str, layer: BatchNorm, after: Tensors) -> int:
    """Return the number of steps of a layer between its own running statistics and those in `after`."""
    before = layer.num_batches_tracked
    assert before is not None, "a layer with a running mean counts its batches"
    return int(after[_key(name, "num_batches_tracked")]) - int(before)


def middle(momentum: float | None, steps: int) -> float:
    """Return the mean position, from 0 to 1, of the K steps in the moments of `batch_statistics`.

    It is `sum_k w_k k / K`. The weight `w_k` is that of step k in the moments. The weights sum to
    1.
    """
    keep = 1.0 if momentum is None else 1 - momentum
    weights = [keep ** (steps - 1 - k) for k in range(steps)]
    return sum(w * k for k, w in enumerate(weights)) / (steps * sum(weights))


def average_statistics(statistics: list[Tensors], counts: list[int]) -> Tensors:
    """Return the mean of the clients' running statistics, weighted by `counts` of examples."""
    total, found = sum(counts), {}
    for name, like in statistics[0].items():
        pairs = zip(statistics, counts, strict=True)
        mean = torch.stack([one[name].double() * count / total for one, count in pairs]).sum(0)
        found[name] = (mean if like.is_floating_point() else mean.round()).to(like)
    return found


def adopt(model: nn.Module, statistics: Tensors) -> None:
    """Copy `statistics` into the model's buffers of these names, in place."""
    for name, value in statistics.items():
        model.get_buffer(name).copy_(value)


def _key(name: str, buffer: str) -> str:
    """Return the full name of a layer's buffer. The name of the layer is empty if it is the whole model."""
    return f"{name}.{buffer}" if name else buffer
