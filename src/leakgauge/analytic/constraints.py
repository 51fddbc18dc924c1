"""The linear equations for the input x of one layer (Zhu and Blaschko 2021, section 3.3).

    K x = g     K from delta = dL/dz, g the weight's gradient            (gradient constraints)
    W x = z     from the weight, where the output z is known             (weight constraints)

x (C, P) has C channels of P places. K is one matrix (O k, P) for every channel, so its singular value
decomposition K = U S V' is taken once, and in the coordinates x V the gradient constraints are diagonal.
The paper's third group, P x = 0 for the padding, is met by leaving the padding out of the unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import ChainLayer

ENTRIES = 4 * 10**7
"""Entries of W as a matrix up to which a layer is solved: some 2 GB of memory."""
RANK = 1e-6
"""Singular values below this share of the largest count as 0: a float32 update does not tell them."""
LEAST = 1e-12
"""Relative noise assumed at least, so that directions that no equation sees come out 0."""


@dataclass(frozen=True)
class System:
    """The equations of one layer, in coordinates that make K diagonal.

    values (P,): singular values of K, 0 where it has none; left (O k, R): U; basis (P, P): V';
    weight (rows, C, P): the known rows of W times V; known (*output): which rows.
    """

    values: Tensor
    left: Tensor
    basis: Tensor
    weight: Tensor
    known: Tensor

    @property
    def gradient_rank(self) -> int:
        """How many of the unknowns the gradient constraints alone tell."""
        return self.weight.shape[1] * self._strong

    @property
    def _strong(self) -> int:
        return int((self.values > RANK * self.values[0]).sum())

    def rank(self) -> int:
        """How many of the unknowns gradient and weight constraints tell together."""
        hidden = self.weight[:, :, self._strong :].flatten(1)
        if hidden.numel() == 0:
            return self.gradient_rank
        gram = hidden @ hidden.T if hidden.shape[0] < hidden.shape[1] else hidden.T @ hidden
        squares = torch.linalg.eigvalsh(gram)
        return self.gradient_rank + int((squares > RANK**2 * squares[-1]).sum())

    def solve(self, dweight: Tensor, z: Tensor, *, noise: float, balanced: bool) -> Tensor:
        """x (C, P) by least squares; z (*output) less the bias, noise the relative error of dweight.

        balanced: both groups of equations are divided by the norms of their right sides, which have
        about equal relative errors. As they are, the weight's outweigh the gradient's by far.
        """
        channels, places = self.weight.shape[1:]
        kernel = dweight.reshape(*dweight.shape[:2], -1)  # a linear layer's has one place
        told = self.left.T @ kernel.permute(0, 2, 1).reshape(-1, channels)
        right = torch.zeros((channels, places), dtype=told.dtype)
        right[:, : len(told)] = told.T
        diagonal = self.values.repeat(channels)
        known = z[self.known] if len(self.weight) else z.new_zeros(0)
        first, second = (float(told.norm()), float(known.norm())) if balanced else (1.0, 1.0)
        diagonal, right = diagonal / (first or 1.0), right.flatten() / (first or 1.0)
        rows, known = self.weight.flatten(1) / (second or 1.0), known / (second or 1.0)
        # What neither group tells to more than the noise stays near 0: rows noise x = 0.
        scale = (diagonal.square().sum() + rows.square().sum()) / len(diagonal)
        if scale == 0:  # a layer that nothing reaches: no equation
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
    """Why the equations of a layer are too many; None where they are not."""
    if isinstance(layer.module, nn.Linear):
        return None
    unknowns, rows = torch.Size(layer.shape).numel(), torch.Size(layer.output).numel()
    if unknowns * rows <= ENTRIES:
        return None
    return f"{layer.name!r} has {unknowns} unknowns and {rows} outputs: more than {ENTRIES:.0e} entries"


def system_of(layer: ChainLayer, delta: Tensor, known: Tensor) -> System:
    """The equations of a layer from delta = dL/dz (*output), where z is known (*output).

    A linear layer is a convolution of one place: its gradient constraints, delta_i x = dW_i, tell all
    (Fan et al. 2020; with a bias, whose gradient is delta, Phong et al. 2018).
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
    """Which place of a channel each output place (L) sees at each entry of the kernel (k); -1 for padding."""
    numbers = torch.arange(1, layer.shape[1] * layer.shape[2] + 1, dtype=torch.float64)
    plane = numbers.reshape(1, 1, *layer.shape[1:])
    size = module.kernel_size[0] * module.kernel_size[1]
    # The layer itself, on one channel, with kernels that pick one entry each.
    picks = torch.eye(size, dtype=torch.float64).reshape(size, 1, *module.kernel_size)
    seen = nn.functional.conv2d(
        plane, picks, stride=module.stride, padding=module.padding, dilation=module.dilation
    )
    return seen[0].flatten(1).T.round().long() - 1


def gradient_matrix(delta: Tensor, places: Tensor, size: int) -> Tensor:
    """K (O k, P): dW_ok = sum_l delta_ol x_places(l, k), for each channel alike."""
    matrix = delta.new_zeros((len(delta), places.shape[1], size))
    for k in range(places.shape[1]):
        inside = places[:, k] >= 0
        matrix[:, k].index_add_(1, places[inside, k], delta[:, inside])
    return matrix.flatten(0, 1)


def _weight_matrix(weight: Tensor, places: Tensor, size: int) -> Tensor:
    """W (O L, C, P): z_ol = sum_ck w_ock x_c,places(l, k)."""
    kernels = weight.flatten(2)
    matrix = weight.new_zeros((len(weight), len(places), weight.shape[1], size))
    for k in range(places.shape[1]):
        rows = (places[:, k] >= 0).nonzero().squeeze(1)
        entries = kernels[:, :, k].expand(len(rows), -1, -1)
        matrix[:, rows, :, places[rows, k]] = entries
    return matrix.flatten(0, 1)
