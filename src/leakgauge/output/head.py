"""The head: the layer whose output is the model's output, up to a known function.

A layer is the head if the model's output depends on the layer's output z, and on no other trained
parameter. The order in which layers are registered does not show which layer is the head. So each
candidate is tested. Its output is replaced by random values, and the model's output must depend
only on these values.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakgauge.core import (
    Domain,
    Inapplicable,
    Loss,
    Observation,
    ProbeError,
    deep_copy,
    unit_shape,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import output_of, value_of
from leakgauge.federated.training.calibration import gradient_size

Finish = Literal["identity", "log_softmax", "softmax"]
"""The function from scaled logits to the model's output."""
PROBES = 2
"""Number of random inputs of the test."""
WITHIN = 1e-4
"""Relative error, from arithmetic in float32, up to which two outputs count as equal."""
SPREAD = 3.0
"""Standard deviation of the random values that replace the head's output. Some are far below 0."""


@dataclass(frozen=True)
class Head:
    """The layer that gives the model's output: `output = finish(scale * z)`, with `z = W h + b`.

    z is averaged over places. A linear layer has one place. A convolution has one place for each
    position of its output.

    Args:
        name: Name of the module.
        weight: Name of its weight.
        bias: Name of its bias, or None if it has no bias.
        outputs: Number of outputs C.
        finish: The function from scaled logits to the model's output.
        scale: The factor of the logits.
        squeezed: Whether the model returns (N,) instead of (N, 1).
    """

    name: str
    weight: str
    bias: str | None
    outputs: int
    finish: Finish
    scale: float
    squeezed: bool

    def logits_to_output(self, logits: Tensor) -> Tensor:
        """Return the model's output for scaled logits (N, C). The map is differentiable."""
        finished = logits
        if self.finish == "log_softmax":
            finished = logits.log_softmax(-1)
        elif self.finish == "softmax":
            finished = logits.softmax(-1)
        return finished.squeeze(1) if self.squeezed else finished

    def loss(self, loss: Loss) -> Loss:
        """Return the loss as a function of scaled logits (N, C) and targets."""
        return lambda logits, targets: value_of(loss, self.logits_to_output(logits), targets)

    def features(self, model: nn.Module, given: Tensor) -> Tensor:
        """Return the features h (N, d) of the head's input (N, ...), averaged over places."""
        return features_of(model.get_submodule(self.name), given)


@dataclass(frozen=True)
class SharedHead:
    """The head and its gradient, in float64 on the CPU.

    W and b are scaled so that the model's logits are `W h + b`.

    Args:
        head: The head.
        weight: W (C, d).
        bias: b (C,), or None if the head has no bias.
        dweight: Gradient of W (C, d).
        dbias: Gradient of b (C,), or None if it is not in the update.
        loss: A function of logits (N, C) and targets.
    """

    head: Head
    weight: Tensor
    bias: Tensor | None
    dweight: Tensor
    dbias: Tensor | None
    loss: Loss


def shared_head(observation: Observation) -> SharedHead | Inapplicable:
    """Return the head with its gradient from the update, or why it cannot be found."""
    try:
        head = head_of(observation.model, observation.domain)
    except ProbeError as error:
        return Inapplicable(" ".join(str(error).split()))
    if head is None:
        return Inapplicable("the model's output is not that of a linear layer")
    tensors = observation.update.tensors
    if head.weight not in tensors:
        return Inapplicable(f"the weight of the last layer, {head.name!r}, is not trained")
    held = dict(observation.model.named_parameters())

    def plain(tensor: Tensor) -> Tensor:
        return tensor.detach().double().cpu().flatten(1) if tensor.ndim > 1 else _vector(tensor)

    bias = None if head.bias is None else head.scale * plain(held[head.bias])
    dbias = tensors.get(head.bias) if head.bias is not None else None
    size = gradient_size(observation)
    return SharedHead(
        head,
        head.scale * plain(held[head.weight]),
        bias,
        plain(tensors[head.weight]) / (head.scale * size),
        None if dbias is None else plain(dbias) / (head.scale * size),
        head.loss(observation.loss),
    )


def _vector(tensor: Tensor) -> Tensor:
    """Return a tensor in float64 on the CPU."""
    return tensor.detach().double().cpu()


def head_of(model: nn.Module, domain: Domain) -> Head | None:
    """Return the head of the model, or None if no single linear layer or convolution gives its output.

    A layer that is called twice, or whose weight is also used elsewhere, is no head. Its gradient is
    a sum of several gradients.

    Raises:
        ProbeError: The model fails on random inputs of the domain.
    """
    # The model may keep its inputs or count its calls, so a copy is run.
    model = deep_copy(model).eval()
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    # A fixed seed is enough: the result does not depend on the points.
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand((PROBES, *unit_shape(domain)), generator=generator).to(like)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        inputs = domain.from_unit(unit)
        calls, output = _record_calls(model, inputs)
        if not isinstance(output, Tensor):
            return None
        times = Counter(name for name, *_ in calls)
        for name, given, made in reversed(calls):
            layer = model.get_submodule(name)
            if times[name] == 1 and _is_plain(layer, given, made):
                found = _head_at(model, name, layer, inputs, made, generator)
                if found is not None:
                    return found
    return None


def features_of(layer: nn.Module, given: Tensor) -> Tensor:
    """Return the input (N, ...) of a linear layer or convolution as vectors (N, d), averaged over places.

    Raises:
        ValueError: The padding of a convolution is not given in pixels.
    """
    if not isinstance(layer, nn.Conv2d):
        return given.flatten(1)
    if isinstance(layer.padding, str):
        raise ValueError(f"expected a padding in pixels; found {layer.padding!r}")
    patches = functional.unfold(
        given, layer.kernel_size, layer.dilation, layer.padding, layer.stride
    )
    return patches.mean(-1)


def _record_calls(model: nn.Module, inputs: Tensor) -> tuple[list[tuple[str, Tensor, Tensor]], Any]:
    """Run the model, and record the calls of its linear layers and convolutions.

    Returns:
        The name, input and output of each call, and the output of the model.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, _: nn.Module, arguments: tuple[Any, ...], named: Any, made: Any) -> None:
        given = arguments[0] if arguments else next(iter(named.values()), None)
        if isinstance(given, Tensor) and isinstance(made, Tensor):
            calls.append((name, given.detach(), made.detach()))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                hook = module.register_forward_hook(partial(note, name), with_kwargs=True)
                hooks.callback(hook.remove)
        with torch.no_grad():
            output = output_of(model, inputs)
    return calls, output


def _is_plain(layer: nn.Module, given: Tensor, made: Tensor) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Return whether the layer computed `W h + b` from one vector for each example or each place."""
    if isinstance(layer, nn.Linear):
        fits = given.ndim == 2
    elif isinstance(layer, nn.Conv2d):
        whole = layer.groups == 1 and not isinstance(layer.padding, str)
        fits = given.ndim == 4 and whole and layer.padding_mode == "zeros"
    else:
        return False
    if not fits or len(made) != PROBES:
        return False
    with torch.no_grad():
        expected = _apply(layer, given)
    return expected.shape == made.shape and _is_near(expected, made)


def _apply(layer: nn.Linear | nn.Conv2d, given: Tensor, *, detached: bool = False) -> Tensor:
    """Return the output of a linear layer or convolution. If `detached`, its weights get no gradient."""
    weight, bias = layer.weight, layer.bias
    if detached:
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    if isinstance(layer, nn.Linear):
        return functional.linear(given, weight, bias)
    return functional.conv2d(given, weight, bias, layer.stride, layer.padding, layer.dilation)


def _head_at(
    model: nn.Module,
    name: str,
    layer: nn.Linear | nn.Conv2d,
    inputs: Tensor,
    made: Tensor,
    generator: torch.Generator,
) -> Head | None:
    """Return the head if the model's output depends only on this layer's output, else None."""
    stand_in = SPREAD * torch.randn(made.shape, generator=generator).to(made)
    stand_in.requires_grad_()
    hook = layer.register_forward_hook(lambda *_: stand_in)
    try:
        output = output_of(model, inputs)
    finally:
        hook.remove()
    # Integer parameters cannot have a gradient, so they are not in the update.
    trained = [p for p in model.parameters() if p.requires_grad]
    if not isinstance(output, Tensor) or not output.requires_grad or len(output) != PROBES:
        return None
    with probing():
        slopes = torch.autograd.grad(output.sum(), [stand_in, *trained], allow_unused=True)
    if slopes[0] is None or any(slope is not None for slope in slopes[1:]):
        return None
    pooled = stand_in.detach().flatten(2).mean(2) if made.ndim == 4 else stand_in.detach()
    finished = _find_finish(pooled, output.detach())
    names = {id(p): n for n, p in model.named_parameters()}
    weight, bias = (names.get(id(getattr(layer, part))) for part in ("weight", "bias"))
    if finished is None or weight is None or (layer.bias is not None and bias is None):
        return None
    if _is_used_elsewhere(model, layer, inputs):
        return None
    squeezed = output.ndim == 1
    return Head(name, weight, bias, pooled.shape[1], *finished, squeezed)


def _is_used_elsewhere(model: nn.Module, layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> bool:
    """Return whether the model's output depends on the layer's weights except through the layer's output."""

    def without_slope(_: nn.Module, arguments: tuple[Any, ...], named: Any, __: Any) -> Tensor:
        given = arguments[0] if arguments else next(iter(named.values()))
        return _apply(layer, given, detached=True)

    hook = layer.register_forward_hook(without_slope, with_kwargs=True)
    try:
        # Tokens are whole numbers, which have no gradient.
        output = output_of(model, inputs.detach().requires_grad_(inputs.is_floating_point()))
    finally:
        hook.remove()
    held = [p for p in layer.parameters() if p.requires_grad]
    if not held or not output.requires_grad:
        return False
    with probing():
        slopes = torch.autograd.grad(output.sum(), held, allow_unused=True)
    return any(slope is not None for slope in slopes)


def _find_finish(logits: Tensor, output: Tensor) -> tuple[Finish, float] | None:
    """Return the function from scaled logits (N, C) to the output (N, ...), and the scale.

    Returns None if no known function fits.
    """
    if output.numel() != logits.numel():
        return None
    logits, output = logits.double(), output.reshape(len(logits), -1).double()
    scale = _ratio(output, logits)
    if scale != 0 and _is_near(scale * logits, output):
        return "identity", scale
    if logits.shape[1] < 2:
        return None
    even = logits - logits.mean(1, keepdim=True)
    logs: list[tuple[Finish, Tensor]] = [("log_softmax", output)]
    if bool((output > 0).all()):
        logs.append(("softmax", output.log()))
    for kind, log in logs:
        scale = _ratio(log - log.mean(1, keepdim=True), even)
        if scale != 0 and _is_near((scale * logits).log_softmax(1), log):
            return kind, scale
    return None


def _ratio(one: Tensor, other: Tensor) -> float:
    """Return the factor c for which `c * other` is closest to `one`. A factor close to 1 is returned as exactly 1."""
    found = float((one * other).sum() / other.square().sum())
    return 1.0 if abs(found - 1) < WITHIN else found


def _is_near(one: Tensor, other: Tensor) -> bool:
    """Return whether two outputs are equal up to rounding in float32."""
    return bool((one - other).abs().max() <= WITHIN * other.abs().max())
