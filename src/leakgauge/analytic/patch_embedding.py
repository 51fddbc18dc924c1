"""Linear equations for the patches of a vision transformer, from one gradient.

X (N, p) are the N patches of an image, E = X P' + b (N, d) their embeddings, and z = E + E_pos the
tokens. G = dL/dE_pos is the gradient of the positional embedding. There are two equations:

- Attention: `G' z = sum_i W_i' dW_i`, if only the linear layers W_i of the first attention see the
  tokens (equation 8 of the paper).
- Embedding: `G' X = dP`, also with skip connections and normalizations. This one is ours.

A model is not recognized by the names of its layers. Both equations are checked on a simulated
gradient of the model itself.

References:
    Lu, Zhang, Zhao, He, Cheng. APRIL: Finding the Achilles' Heel on Privacy for Vision
    Transformers. CVPR 2022, section 3.2. arXiv:2112.14087.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, unfold

from leakgauge.analytic.linear import inverse_of_affine
from leakgauge.core import Domain, Inapplicable, Tensors, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, single, spread
from leakgauge.federated.isolation.untouched import output_of

AGREEMENT = 1e-8
"""Largest relative error at which an equation holds on a simulated gradient, in float64."""


@dataclass(frozen=True)
class PatchEquations:
    """The equations of one model: the names of its layers and parameters that take part in them.

    Args:
        position: Name of the positional embedding E_pos.
        embedding: Name of the convolution that embeds the patches.
        conv: This convolution.
        first: Index of the first token that is a patch.
        attention: Names of the weights W_i, or None if not only linear layers take the tokens as
            input.
        anchor: The patches X (N, p) and tokens z (N, d) of one probe, a random image.
        size: Shape of the convolution's input.
        invert: Map from the convolution's input, flat (1, F), to unit coordinates.
    """

    position: str
    embedding: str
    conv: nn.Conv2d
    first: int
    attention: tuple[str, ...] | None
    anchor: tuple[Tensor, Tensor]
    size: tuple[int, ...]
    invert: Callable[[Tensor], Tensor]

    def slopes(self, tensors: Tensors) -> Tensor:
        """Return G (N, d) of the patches alone."""
        whole = tensors[self.position].double().cpu()
        whole = whole.reshape(-1, whole.shape[-1])
        return whole[self.first : self.first + len(self.anchor[0])]

    def from_embedding(self, tensors: Tensors, back: Tensor) -> Tensor:
        """Return the patches X (N, p) from the gradient dP. `back` (N, d) is a pseudo-inverse of G'."""
        return back @ tensors[f"{self.embedding}.weight"].double().cpu().flatten(1)

    def from_attention(
        self, tensors: Tensors, parameters: Mapping[str, Tensor], back: Tensor
    ) -> Tensor:
        """Return the patches X (N, p) from the tokens z.

        `back` (places, d) is a pseudo-inverse of G' for all tokens.
        """
        assert self.attention is not None, "expected a model whose attention alone sees the tokens"
        right = attention_side(tensors, parameters, self.attention)
        known, z = self.anchor
        moved = (back @ right)[self.first : self.first + len(known)] - z
        unembed: Tensor = torch.linalg.pinv(self.conv.weight.detach().flatten(1))
        return known + moved @ unembed.T

    def image(self, patches: Tensor) -> Tensor:
        """Return the unit coordinates of the image with patches X (N, p), in a batch of one."""
        kernel = tuple(self.conv.kernel_size)
        whole = fold(patches.T.unsqueeze(0), self.size[1:], kernel, stride=kernel)
        return self.invert(whole.flatten(1))


def attention_side(
    tensors: Tensors, parameters: Mapping[str, Tensor], names: tuple[str, ...]
) -> Tensor:
    """Return sum_i W_i' dW_i (d, d)."""
    pairs = [(parameters[n].detach().double().cpu(), tensors[n].double().cpu()) for n in names]
    return torch.stack([weight.T @ dweight for weight, dweight in pairs]).sum(0)


def patch_equations(model: nn.Module, domain: Domain) -> PatchEquations | Inapplicable:
    """Return the equations that hold for `model`, or the reason why there are none."""
    model = doubled(model).eval()
    probe = _probe(model, domain)
    if isinstance(probe, Inapplicable):
        return probe
    name, conv = probe.embedding
    patches = unfold(probe.seen, conv.kernel_size, stride=conv.stride)[0].T
    dweight = probe.gradient[f"{name}.weight"].flatten(1)
    for position, first in _candidates(probe.gradient, len(patches), conv.out_channels):
        slopes = probe.gradient[position].reshape(-1, conv.out_channels)
        if not _equal(slopes[first : first + len(patches)].T @ patches, dweight):
            continue
        invert = inverse_of_affine(partial(_entry, model, conv, domain), domain)
        if invert is None:
            return Inapplicable(
                f"the convolution {name!r} does not see an invertible affine map of the input"
            )
        attention, z = _attention(probe, dict(model.named_parameters()), slopes)
        anchor = (patches, z[first : first + len(patches)])
        size = tuple(probe.seen.shape[1:])
        return PatchEquations(position, name, conv, first, attention, anchor, size, invert)
    return Inapplicable("the model adds no trained positional embedding to the patches' embeddings")


@dataclass(frozen=True)
class _Probe:
    """One simulated gradient, and the inputs of the modules.

    Args:
        embedding: Name and module of the first convolution.
        seen: Input of this convolution.
        heard: Names of the weights of linear and attention layers, with the layers' inputs.
        gradient: The gradient of each trained parameter.
    """

    embedding: tuple[str, nn.Conv2d]
    seen: Tensor
    heard: list[tuple[str, Tensor]]
    gradient: Tensors


def _probe(model: nn.Module, domain: Domain) -> _Probe | Inapplicable:
    """Return a simulated gradient at a random input, or the reason why the model has no patches.

    The gradient is that of a random linear function of the output.
    """
    unit = spread(unit_shape(domain), 1, torch.zeros((), dtype=torch.float64))
    convolutions: list[tuple[str, nn.Conv2d, Tensor]] = []
    heard: list[tuple[str, Tensor]] = []

    def note(name: str, module: nn.Module, arguments: tuple[Tensor, ...], _: object) -> None:
        if isinstance(module, nn.Conv2d):
            convolutions.append((name, module, arguments[0].detach()))
        else:
            suffix = ".in_proj_weight" if isinstance(module, nn.MultiheadAttention) else ".weight"
            heard.append((name + suffix, arguments[0]))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
                hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        output = single(output_of(model, domain.from_unit(unit)))
    if not convolutions:
        return Inapplicable("the model has no convolution that cuts the image into patches")
    name, conv, seen = convolutions[0]
    tiles = tuple(conv.kernel_size) == tuple(conv.stride) and conv.padding in ((0, 0), "valid")
    if not tiles or any(s % k for s, k in zip(seen.shape[2:], conv.kernel_size, strict=True)):
        return Inapplicable(f"the first convolution, {name!r}, does not cut the image into patches")
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if f"{name}.weight" not in parameters:
        return Inapplicable(f"the weight of the patch embedding, {name!r}, is not trained")
    generator = torch.Generator().manual_seed(0)  # any direction can probe an identity
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    with probing():
        grads = torch.autograd.grad(
            (output * direction).sum(), list(parameters.values()), materialize_grads=True
        )
    gradient = dict(zip(parameters, grads, strict=True))
    return _Probe((name, conv), seen, heard, gradient)


def _candidates(gradient: Tensors, patches: int, dim: int) -> list[tuple[str, int]]:
    """Return candidates for the positional embedding: a parameter's name, and the row of the first patch."""
    found = []
    for name, tensor in gradient.items():
        rows = tensor.numel() // dim
        fits = tensor.ndim in (2, 3) and tensor.shape[-1] == dim and tensor.any()
        if fits and tensor.shape[-2] == rows and patches <= rows <= patches + 8:
            found += [(name, first) for first in range(rows - patches, -1, -1)]
    return found


def _attention(
    probe: _Probe, parameters: Mapping[str, Tensor], slopes: Tensor
) -> tuple[tuple[str, ...] | None, Tensor]:
    """Return the names of the only weights that take the tokens, and the tokens z (places, d).

    Return None and zeros if other modules take the tokens too.
    """
    groups: dict[int, list[str]] = {}
    inputs: dict[int, Tensor] = {}
    for name, tensor in probe.heard:
        groups.setdefault(id(tensor), []).append(name)
        inputs[id(tensor)] = tensor
    for key, names in groups.items():
        z = inputs[key].detach().reshape(-1, inputs[key].shape[-1])
        if z.shape != slopes.shape or not all(name in probe.gradient for name in names):
            continue
        right = attention_side(probe.gradient, parameters, tuple(names))
        if _equal(slopes.T @ z, right):
            return tuple(names), z
    return None, torch.zeros_like(slopes)


def _equal(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors agree, and are not 0."""
    return bool((left - right).norm() <= AGREEMENT * right.norm()) and bool(right.any())


def _entry(model: nn.Module, conv: nn.Conv2d, domain: Domain, unit: Tensor) -> Tensor:
    """Return the input of the patch embedding, flat (N, F)."""
    seen: list[Tensor] = []
    hook = conv.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        output_of(model, domain.from_unit(unit))
    finally:
        hook.remove()
    return seen[0].flatten(1)
