"""Kernels for a linear layer z = W h + b, in float64.

Over the examples j, its gradients are `dW = sum_j delta_j h_j'` and `db = sum_j delta_j`. Here h_j
(F,) is the layer's input and delta_j (O,) the gradient at its output. If only example j excites
output i, then `dW_i / db_i = h_j`.

References:
    Phong, Aono, Hayashi, Wang, Moriai. Privacy-Preserving Deep Learning via Additively Homomorphic
    Encryption. IEEE Transactions on Information Forensics and Security 13(5), 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, Inapplicable, Loss, Observation, ProbeError, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, spread
from leakgauge.federated.isolation.untouched import output_of, value_of
from leakgauge.federated.layers.dropout import drawn_masks, mean_network
from leakgauge.output import Contribution, contribution_of, loss_in

FLOAT64 = torch.zeros((), dtype=torch.float64)
DENSE_LIMIT = 4096
"""Largest number of inputs or features for which a general affine map is inverted. An elementwise map has no limit."""
AFFINE_TOLERANCE = 1e-9
"""Largest error of an affine map, relative to its values."""
INJECTIVE = 1e-9
"""Least singular value of an affine map that counts as injective, relative to the largest one."""
POWER_STEPS = 200
"""Largest number of power iterations."""


@dataclass(frozen=True)
class LinearEntry:
    """The first linear layer of a model, and the affine map from unit coordinates to its input.

    Args:
        name: Name of the layer.
        layer: The layer.
        model: The model, in float64 on the CPU.
        invert: Map from the layer's input (N, F) to unit coordinates `(N, *shape)`.
        loss: The loss, in float64 on the CPU.
        contribution: How an example adds to the update, or the reason why that is not known.
    """

    name: str
    layer: nn.Linear
    model: nn.Module
    invert: Callable[[Tensor], Tensor]
    loss: Loss
    contribution: Contribution | Inapplicable


def entry(observation: Observation) -> LinearEntry | Inapplicable:
    """Return the first linear layer of an observation of one gradient, or the reason why it cannot be used."""
    reason = observation.not_one_gradient()
    if reason is not None:
        return Inapplicable(reason)
    # Dropout after the layer does not change the layer's inputs. So the probes run the network
    # without dropout.
    model = doubled(mean_network(observation).model)
    found = first_linear(model, observation.domain)
    if found is None:
        return Inapplicable("the model has no linear layer that its forward calls")
    name, layer, feature = found
    if drawn_masks(observation, before=name):
        return Inapplicable(
            f"dropout before the first linear layer, {name!r}, hides part of its input"
        )
    tensors = observation.update.tensors
    if layer.bias is None or f"{name}.bias" not in tensors:
        return Inapplicable(f"the first linear layer, {name!r}, has no trainable bias to divide by")
    if f"{name}.weight" not in tensors:
        return Inapplicable(
            f"the first linear layer, {name!r}, has no weight of its own that is trained"
        )
    probe = feature(torch.zeros(1, *unit_shape(observation.domain), dtype=torch.float64))
    if probe.ndim != 2:
        return Inapplicable(
            f"the first linear layer, {name!r}, takes {probe.ndim - 1} axes an example, not one vector"
        )
    invert = inverse_of_affine(feature, observation.domain)
    if invert is None:
        return Inapplicable(
            f"the first linear layer, {name!r}, does not see an invertible affine map of the input"
        )
    loss = loss_in(observation, torch.float64, torch.device("cpu"))
    return LinearEntry(name, layer, model, invert, loss, contribution_of(observation))


def first_linear(
    model: nn.Module, domain: Domain
) -> tuple[str, nn.Linear, Callable[[Tensor], Tensor]] | None:
    """Return the linear layer that is called first, or None if the model calls none.

    Returns:
        The layer's name, the layer, and a function from unit coordinates to the layer's input.
    """
    probe = spread(unit_shape(domain), 1, FLOAT64)
    order: list[tuple[str, nn.Linear]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                hook = partial(lambda layer, *_: order.append(layer), (name, module))
                hooks.callback(module.register_forward_pre_hook(hook).remove)
        output_of(model, domain.from_unit(probe))
    if not order:
        return None
    name, layer = order[0]

    def feature(unit: Tensor) -> Tensor:
        return layer_call(model, layer, domain.from_unit(unit))[0]

    return name, layer, feature


def layer_call(model: nn.Module, layer: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input and the output of `layer`, and the model's output, for the inputs `(N, *shape)`.

    Raises:
        ProbeError: The model does not call the layer on these inputs.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(
        lambda _, arguments, output: seen.append((arguments[0], output))
    )
    try:
        prediction = output_of(model, inputs)
    finally:
        hook.remove()
    if not seen:
        raise ProbeError(
            "expected the same layers to be called on all inputs; the model calls others on other inputs"
        )
    return (*seen[0], prediction)


def deltas(
    domain: Domain, entry: LinearEntry, contribution: Contribution, unit: Tensor, label: int
) -> Tensor:
    """Return delta (N, O), each example's part of the batch's gradient at the layer's output.

    Args:
        domain: The domain of the inputs.
        entry: The first linear layer.
        contribution: How an example adds to the update.
        unit: Unit coordinates `(N, *shape)`.
        label: The label of all these examples.
    """
    inputs = domain.from_unit(unit)
    _, output, prediction = layer_call(entry.model, entry.layer, inputs)
    targets = torch.full((len(unit),), label, dtype=torch.long)
    with probing("the loss"):
        value = value_of(entry.loss, prediction, targets)
        (delta,) = torch.autograd.grad(value, [output])
    return delta * contribution.factor(len(unit), label)


def inverse_of_affine(
    feature: Callable[[Tensor], Tensor], domain: Domain, *, least: float = INJECTIVE
) -> Callable[[Tensor], Tensor] | None:
    """Return the inverse of `feature` if it is affine and injective in unit coordinates, else None.

    Args:
        feature: The map of a batch of inputs.
        domain: The domain of the inputs.
        least: Least singular value of its matrix, relative to the largest one. Errors of the features
            grow by at most the inverse of this number.
    """
    generator = torch.Generator().manual_seed(0)  # any points can probe the map
    probes = torch.rand((2, *unit_shape(domain)), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        zero = feature(torch.zeros(1, *unit_shape(domain), dtype=torch.float64))
        ones = feature(torch.ones(1, *unit_shape(domain), dtype=torch.float64))
        values = feature(probes)
    size = probes[0].numel()
    scale = AFFINE_TOLERANCE * (1 + float(values.abs().max()))
    slope = ones - zero
    sizes = slope.abs()
    elementwise = slope.numel() == size and bool(sizes.min() > least * sizes.max())
    if elementwise and torch.allclose(zero + slope * probes.flatten(1), values, rtol=0, atol=scale):
        return lambda h: ((h - zero) / slope).reshape(-1, *unit_shape(domain))
    if max(size, zero.numel()) > DENSE_LIMIT:
        return None
    # One point is tested first. The Jacobian takes much more memory: the activations for all unit
    # vectors at once.
    with torch.no_grad():
        middle = feature(probes.mean(0, keepdim=True))
    if not torch.allclose(middle, values.mean(0, keepdim=True), rtol=0, atol=scale):
        return None
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *unit_shape(domain))
    with torch.no_grad():
        jacobian = feature(basis) - zero  # (size, features), exact for an affine map
    if not torch.allclose(zero + probes.flatten(1) @ jacobian, values, rtol=0, atol=scale):
        return None
    if int(torch.linalg.matrix_rank(jacobian, rtol=least)) < size:
        return None
    back = torch.linalg.pinv(jacobian)
    return lambda h: ((h - zero) @ back).reshape(-1, *unit_shape(domain))


def rank_one(weight: Tensor, bias: Tensor, kept: Tensor) -> Tensor:
    """Return the input h (F,) of one example from [dW, db] = delta [h, 1]'.

    If all entries are shared, h is the first singular vector. It is the maximum likelihood estimate
    under noise of equal variance on dW and db. Otherwise h is a least-squares fit to the shared
    entries. It is 0 in a column of dW without shared entries.

    Args:
        weight: dW (O, F).
        bias: db (O,).
        kept: (O, F), 1 for each shared entry of dW and 0 for the others.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.linear import rank_one
        >>> delta, h = torch.tensor([2.0, 1.0]).double(), torch.tensor([1.0, 2.0]).double()
        >>> rank_one(torch.outer(delta, h), delta, torch.ones(2, 2)).round(decimals=6)
        tensor([1., 2.], dtype=torch.float64)
    """
    if not bool(kept.all()):
        strength = kept.T @ bias.square()
        return (kept * weight).T @ bias / strength.clamp_min(torch.finfo(torch.float64).tiny)
    joined = torch.cat([weight, bias.unsqueeze(1)], dim=1)
    delta = bias / bias.norm()
    # Power iteration. Without noise the first step is exact.
    for _ in range(POWER_STEPS):
        h: Tensor = joined.T @ delta
        stepped = joined @ h
        stepped /= stepped.norm()
        moved = float((stepped - delta).norm())
        delta = stepped
        if moved < 1e-14:
            break
    h = joined.T @ delta
    return h[:-1] / h[-1]


def ratios(weight: Tensor, bias: Tensor, *, floor: float) -> tuple[Tensor, Tensor]:
    """Return dW_i / db_i (N, F) for the rows i with `|db_i|` above `floor`, and the rows (N,).

    The ratio is the input of an example if only this example excites output i.
    """
    rows = (bias.abs() > floor).nonzero().squeeze(1)
    return weight[rows] / bias[rows].unsqueeze(1), rows


def kept_entries(observation: Observation, name: str) -> Tensor:
    """Return a mask of tensor `name`: 1 for each entry that a known defense keeps, 0 for each dropped one."""
    tensors = observation.update.tensors
    defense = observation.knowledge.defense
    if defense is None:
        return torch.ones_like(tensors[name]).double().cpu()
    ones = {key: torch.ones_like(tensor) for key, tensor in tensors.items()}
    return defense.adapt(observation.update)(ones)[name].double().cpu()


def is_same_example(a: Tensor, b: Tensor, *, within: float = 1e-3) -> bool:
    """Return whether two recovered inputs are of one example: they differ by at most `within` times the norm of `b`."""
    return bool((a - b).norm() <= within * b.norm())


def has_duplicate(candidates: Tensor, i: int) -> bool:
    """Return whether another of the candidates (N, F) equals candidate i."""
    apart = (candidates - candidates[i]).norm(dim=1)
    return int((apart <= 1e-3 * candidates[i].norm()).sum()) > 1
