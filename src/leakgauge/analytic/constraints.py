"""The linear equations for the input x of one layer.

There are two groups:

- gradient constraints K x = g. K follows from delta = dL/dz, and g is the gradient of the weight;
- weight constraints W x = z, with the weight W, for the entries of the output z that are known.

The input x (C, P) has C channels of P places. One matrix K (O k, P) serves all channels, for O
output channels and k kernel entries. Its singular value decomposition K = U S V' is therefore
computed once. In the coordinates x V the gradient constraints are diagonal. The paper has a third
group, P x = 0 for the padding. Here the padding is simply not among the unknowns.

References:
    Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021, section 3.3.
    arXiv:2010.07733.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import ChainLayer

ENTRIES = 4 * 10**7
"""Largest number of entries of W, as a matrix, for which a layer is solved. It takes about 2 GB of memory."""
RANK = 1e-6
"""Singular values below this fraction of the largest count as 0, since a float32 update does not show them."""
LEAST = 1e-12
"""Least relative noise that is assumed. With it, directions without an equation get the value 0."""


@dataclass(frozen=True)
class System:
    """The equations of one layer, in coordinates that make K diagonal.

    Args:
        values: (P,), singular values of K, padded with 0.
        left: (O k, R), the matrix U, with R the number of singular values.
        basis: (P, P), the matrix V'.
        weight: (rows, C, P), the known rows of W times V.
        known: `(*output)`, marks these rows.
    """

    values: Tensor
    left: Tensor
    basis: Tensor
    weight: Tensor
    known: Tensor

    @property
    def gradient_rank(self) -> int:
        """Number of unknowns that the gradient constraints alone determine."""
        return self.weight.shape[1] * self._strong

    @property
    def _strong(self) -> int:
        """Number of singular values of K that do not count as 0."""
        return int((self.values > RANK * self.values[0]).sum())

    def rank(self) -> int:
        """Return the number of unknowns that gradient constraints and weight constraints together determine."""
        hidden = self.weight[:, :, self._strong :].flatten(1)
        if hidden.numel() == 0:
            return self.gradient_rank
        gram = hidden @ hidden.T if hidden.shape[0] < hidden.shape[1] else hidden.T @ hidden
        squares = torch.linalg.eigvalsh(gram)
        return self.gradient_rank + int((squares > RANK**2 * squares[-1]).sum())

    def solve(self, dweight: Tensor, z: Tensor, *, noise: float, balanced: bool) -> Tensor:
        """Return x (C, P) by least squares.

        Args:
            dweight: The gradient of the weight.
            z: `(*output)`, the output without the bias.
            noise: Relative error of `dweight`.
            balanced: Whether to divide each group of equations by the norm of its right side. Both
                groups have about equal relative errors, but without the division the weight
                constraints dominate by far.
        """
        channels, places = self.weight.shape[1:]
        kernel = dweight.reshape(*dweight.shape[:2], -1)  # a linear layer has one place
        products = self.left.T @ kernel.permute(0, 2, 1).reshape(-1, channels)
        right = torch.zeros((channels, places), dtype=products.dtype)
        right[:, : len(products)] = products.T
        diagonal = self.values.repeat(channels)
        known = z[self.known] if len(self.weight) else z.new_zeros(0)
        first, second = (float(products.norm()), float(known.norm())) if balanced else (1.0, 1.0)
        diagonal, right = diagonal / (first or 1.0), right.flatten() / (first or 1.0)
        rows, known = self.weight.flatten(1) / (second or 1.0), known / (second or 1.0)
        # Additional equations `noise * x = 0` keep directions near 0 that neither group determines
        # better than the noise.
        scale = (diagonal.square().sum() + rows.square().sum()) / len(diagonal)
        if scale == 0:  # no equation: no signal reaches the layer
            return torch.zeros_like(right).reshape(channels, places)
        ridge = max(noise, LEAST) ** 2 * scale
        joined = (diagonal.square() + ridge).sqrt()
        right = diagonal * right / joined
        if len(rows) == 0:
            return (right / joined).reshape(channels, places) @ self.basis
        matrix = torch.cat([torch.diag(joined), rows])
        joint = torch.cat([right, known]).unsqueeze(1)
        found: Tensor = torch.linalg.lstsq(matrix, joint, driver="gels").solution
        return found.reshape(channels, places) @ self.basis


def too_large(layer: ChainLayer) -> str | None:
    """Return why a layer has too many equations to solve, or None if they are few enough."""
    if isinstance(layer.module, nn.Linear):
        return None
    unknowns, rows = torch.Size(layer.shape).numel(), torch.Size(layer.output).numel()
    if unknowns * rows <= ENTRIES:
        return None
    return (
        f"{layer.name!r} has {unknowns} unknowns x {rows} outputs: more than {ENTRIES:.0e} entries"
    )


def system_of(layer: ChainLayer, delta: Tensor, known: Tensor) -> System:
    """Return the equations of a layer.

    A linear layer is a convolution of one place. Its gradient constraints, delta_i x = dW_i,
    determine x completely (Fan et al. 2020). If it has a bias, the bias's gradient is delta (Phong
    et al. 2018).

    Args:
        layer: The layer.
        delta: `(*output)`, the gradient dL/dz.
        known: `(*output)`, marks where z is known.
    """
    module = layer.module
    if isinstance(module, nn.Linear):
        strength = delta.norm().reshape(1)
        left = delta.unsqueeze(1) / strength.clamp_min(torch.finfo(delta.dtype).tiny)
        weight = delta.new_zeros((0, module.in_features, 1))
        return System(strength, left, torch.ones_like(left[:1]), weight, known)
    places = places_of(module, layer)
    gradient = gradient_matrix(delta.flatten(1), places, layer.shape[1] * layer.shape[2])
    left, values, basis = torch.linalg.svd(gradient, full_matrices=True)
    full = torch.zeros(len(basis), dtype=values.dtype)
    full[: len(values)] = values
    weight = _weight_matrix(module.weight.detach(), places, len(basis))[known.flatten()]
    return System(full, left[:, : len(values)], basis, weight @ basis.T, known)


def places_of(module: nn.Conv2d, layer: ChainLayer) -> Tensor:
    """Return the input place that each output place reads at each kernel entry (L, k), or -1 for padding."""
    numbers = torch.arange(1, layer.shape[1] * layer.shape[2] + 1, dtype=torch.float64)
    plane = numbers.reshape(1, 1, *layer.shape[1:])
    size = module.kernel_size[0] * module.kernel_size[1]
    # Apply the layer itself to one channel, with kernels that select one entry each.
    picks = torch.eye(size, dtype=torch.float64).reshape(size, 1, *module.kernel_size)
    seen = nn.functional.conv2d(
        plane, picks, stride=module.stride, padding=module.padding, dilation=module.dilation
    )
    return seen[0].flatten(1).T.round().long() - 1


def gradient_matrix(delta: Tensor, places: Tensor, size: int) -> Tensor:
    """Return K (O k, P), equal for all channels: dW_ok = sum_l delta_ol x_places(l, k)."""
    matrix = delta.new_zeros((len(delta), places.shape[1], size))
    for k in range(places.shape[1]):
        inside = places[:, k] >= 0
        matrix[:, k].index_add_(1, places[inside, k], delta[:, inside])
    return matrix.flatten(0, 1)


def _weight_matrix(weight: Tensor, places: Tensor, size: int) -> Tensor:
    """Return W (O L, C, P): z_ol = sum_ck w_ock x_c,places(l, k)."""
    kernels = weight.flatten(2)
    matrix = weight.new_zeros((len(weight), len(places), weight.shape[1], size))
    for k in range(places.shape[1]):
        rows = (places[:, k] >= 0).nonzero().squeeze(1)
        entries = kernels[:, :, k].expand(len(rows), -1, -1)
        matrix[:, rows, :, places[rows, k]] = entries
    return matrix.flatten(0, 1)
