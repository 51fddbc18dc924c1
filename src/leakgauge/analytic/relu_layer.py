"""A batch from the gradient of a linear layer with a ReLU, as a factorization with known zeros.

The layer has F inputs and O outputs, and the batch B examples. The gradient of weight and bias is
`G = [dW, db] = D H`. Row j of H = [X, 1] (B, F + 1) is the input of example j.
Column j of D (O, B) is the gradient that it causes at the layer's outputs. The singular value
decomposition gives G = L R with rank B. Then D = L Q and H = Q^-1 R, with one unknown Q (B, B).

D_ij is exactly 0 if example j leaves output i below zero. Each column q of Q is therefore a
direction with sparse L q. The pre-activation z = [W, b] h of an example is above zero wherever its
L q is not 0.

References:
    Dimitrov, Baader, Müller, Vechev. SPEAR: Exact Gradient Inversion of Batches in Federated
    Learning. NeurIPS 2024, section 3. arXiv:2403.03945.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.last_layer import rounding
from leakgauge.analytic.linear import LinearEntry, entry
from leakgauge.core import Domain, Inapplicable, Observation, unit_shape
from leakgauge.federated.isolation.probing import probing, single, spread
from leakgauge.federated.isolation.untouched import output_of

FLOOR = 0.1
"""Columns of G are scaled by their size, and by no less than this fraction of the largest size.

Fainter columns would be mostly noise.
"""
FAINT = 6.0
"""An output below this number of standard deviations of the noise carries no information."""
WITHIN, WITHIN_NOISE = 30.0, 6.0
"""An output within this number of standard deviations counts as zero: under rounding, and under noise.

Rounding has longer tails than Gaussian noise.
"""
CLEAN = 1e-5
"""If the noise of an output of size 1 is below this value, no small output is mistaken for a zero."""
TOO_FEW = 8
"""Least number of dimensions beyond the rank that an estimate of the noise needs."""
NOISE_STEPS = 2
"""Refinements of the noise estimate."""
SINGULAR = 1e-9
"""Least singular value of directions that count as independent.

For outputs, the limit is its square root, relative to the largest value.
"""
MOSTLY = 0.5
"""Least fraction of the outputs above 0 that must have an effect if a ReLU follows."""
TYLER_STEPS = 60
"""Steps of Tyler's fixed-point iteration."""
DRAWN = 0.02
"""Weight of the plain scatter estimate in Tyler's estimate."""


@dataclass(frozen=True)
class Factors:
    """The factorization G = scale * rows @ right for m outputs, and a basis for the search.

    A direction a (B,) of the search stands for the column q = basis a of Q. The basis favors no direction.

    Args:
        rows: (m, B), with noise of standard deviation 1 on each entry.
        right: (B, F + 1).
        scale: (m, 1), the noise of each output.
        live: (m,), indices of the m outputs, which have a gradient above the noise, among all O.
        clean: Whether the noise is so small that no small output is mistaken for a zero.
        unit: (m, B), equal to rho * rows @ basis. All rows have equal length.
        rho: (m,), the scale of each row of `unit`.
        basis: (B, B), columns in the coordinates of `rows`.
        layer: (m, B), map from p (B,) to the pre-activations [W, b] h of h = p inv(basis) right.
        last: (B,), map from p to the last entry of h, which is 1.
    """

    rows: Tensor
    right: Tensor
    scale: Tensor
    live: Tensor
    clean: bool
    unit: Tensor
    rho: Tensor
    basis: Tensor
    layer: Tensor
    last: Tensor

    @property
    def batch(self) -> int:
        """Batch size B."""
        return self.rows.shape[1]

    @property
    def within(self) -> float:
        """Number of standard deviations of the noise within which an output counts as zero."""
        return WITHIN if self.clean else WITHIN_NOISE

    def noise(self, directions: Tensor) -> Tensor:
        """Return the standard deviations (N, m) of the outputs unit @ a of directions a (N, B)."""
        length = (directions @ self.basis.T).norm(dim=1, keepdim=True)
        noise: Tensor = length * self.rho
        return noise

    def zeros(self, directions: Tensor) -> Tensor:
        """Return a mask (N, m) of the outputs that are 0 within their noise, for directions (N, B)."""
        return (directions @ self.unit.T).abs() <= self.within * self.noise(directions)


def relu_entry(observation: Observation) -> LinearEntry | Inapplicable:
    """Return the first linear layer of the model, or the reason why this attack cannot use it.

    A ReLU must follow it, and B must not exceed the largest rank of its gradient.
    """
    found = entry(observation)
    if isinstance(found, Inapplicable):
        return found
    if f"{found.name}.weight" not in observation.update.tensors:
        return Inapplicable(f"the weight of the first linear layer, {found.name!r}, is not trained")
    if not followed_by_relu(found, observation.domain):
        return Inapplicable(f"no ReLU follows the first linear layer, {found.name!r}")
    batch = observation.knowledge.batch_size or 1
    most = min(found.layer.out_features, found.layer.in_features + 1)
    if batch > most:
        return Inapplicable(
            f"batch {batch} > {most}, the largest rank of the gradient of layer {found.name!r}"
        )
    return found


def factors_of(observation: Observation, found: LinearEntry) -> Factors | Inapplicable:
    """Return the factors of the layer's observed gradient, or the reason why there are none."""
    tensors, name, layer = observation.update.tensors, found.name, found.layer
    gradient = torch.cat([tensors[f"{name}.weight"], tensors[f"{name}.bias"].unsqueeze(1)], dim=1)
    weights = torch.cat([layer.weight, layer.bias.unsqueeze(1)], dim=1).detach()
    shared = rounding(tensors[f"{name}.weight"]).shared
    return factorize(gradient.double().cpu(), weights, observation.batch_size, shared)


def factorize(
    gradient: Tensor, layer: Tensor, batch: int, rounding: float
) -> Factors | Inapplicable:
    """Return the factors of the gradient of a layer, or the reason why there are none.

    Args:
        gradient: [dW, db] (O, F + 1).
        layer: [W, b] (O, F + 1).
        batch: Batch size B.
        rounding: Relative error of the shared entries.
    """
    strength = gradient.norm(dim=1)
    live = (strength > 0).nonzero().squeeze(1)
    if len(live) < batch:
        return Inapplicable(
            f"only {len(live)} outputs of the layer have a gradient, for {batch} examples"
        )
    gradient, layer = gradient[live], layer[live]
    scale, columns = sizes(gradient)
    for _ in range(NOISE_STEPS):
        scale, columns = noise_sizes(gradient, scale, columns, batch, rounding)
    left, values, right = torch.linalg.svd(gradient / scale / columns, full_matrices=False)
    # Values are in units of the noise. The threshold 2 (sqrt(m) + sqrt(D)) is twice the largest
    # value of noise alone.
    rank = int((values > 2 * (left.shape[0] ** 0.5 + right.shape[1] ** 0.5)).sum())
    if rank < batch:
        return Inapplicable(
            f"rank {rank} of the layer's gradient < batch {batch}: examples are equal, have almost no "
            "gradient, or are below the noise"
        )
    rows, right = left[:, :batch] * values[:batch], right[:batch] * columns
    heard = rows.norm(dim=1) > FAINT * math.sqrt(batch)
    if int(heard.sum()) < batch:
        return Inapplicable(f"only {int(heard.sum())} outputs of the layer are above the noise")
    spread = torch.linalg.svdvals(normalize(rows[heard], dim=1))
    if float(spread[-1]) <= SINGULAR**0.5 * float(spread[0]):
        return Inapplicable(
            "the outputs of the layer above the noise do not tell all examples apart"
        )
    return prepare_factors(rows[heard], right, scale[heard], live[heard], layer[heard])


def prepare_factors(
    rows: Tensor, right: Tensor, scale: Tensor, live: Tensor, layer: Tensor
) -> Factors:
    """Return the factors of G = scale rows right, where `rows` has noise 1 on each entry."""
    batch = rows.shape[1]
    basis = isotropic_basis(rows / rows.norm(dim=1, keepdim=True))
    turned = rows @ basis
    rho = math.sqrt(batch) / turned.norm(dim=1)
    seen = torch.linalg.solve(basis, right)
    typical = float(basis.square().sum(0).mean().sqrt() * rho.median())
    return Factors(
        rows=rows,
        right=right,
        scale=scale,
        live=live,
        clean=typical < CLEAN,
        unit=turned * rho.unsqueeze(1),
        rho=rho,
        basis=basis,
        layer=layer @ seen.T,
        last=seen[:, -1],
    )


def sizes(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root mean squares of the rows (m, 1), and of the columns (1, D) of the scaled rows."""
    scale = gradient.square().mean(1, keepdim=True).sqrt()
    columns = (gradient / scale).square().mean(0, keepdim=True).sqrt()
    return scale, columns.clamp_min(FLOOR * columns.max())


def noise_sizes(
    gradient: Tensor, scale: Tensor, columns: Tensor, batch: int, rounding: float
) -> tuple[Tensor, Tensor]:
    """Return the noise of each entry (i, k) as a product scale_i columns_k, from the residual beyond rank B.

    Rounding of the entries sets a lower bound. The residual of a row can fall below it by chance,
    or because the row's errors lie in the directions of the batch. If the residual has too few
    dimensions, the noise is taken as twice this bound.

    Args:
        gradient: (m, D).
        scale: (m, 1), an earlier estimate.
        columns: (1, D), an earlier estimate.
        batch: Batch size B.
        rounding: Relative error of the shared entries.
    """
    height, width = gradient.shape
    strength, shape = sizes(gradient)
    least = rounding / 2 * strength
    if min(height, width) < batch + TOO_FEW:
        return 2 * least, shape
    left, values, right = torch.linalg.svd(gradient / scale / columns, full_matrices=False)
    rest = (left[:, batch:] * values[batch:]) @ right[batch:]
    free = (1 - left[:, :batch].square().sum(1, keepdim=True)).clamp_min(0.1) * (width - batch)
    noise = (rest.square().sum(1, keepdim=True) / free).sqrt()
    spread = (rest * columns / noise.clamp_min(1e-300)).square().mean(0, keepdim=True).sqrt()
    spread = spread.clamp_min(FLOOR * spread.max())
    # The mean square of the columns is set to 1, so scale x columns is the noise.
    size = spread.square().mean().sqrt()
    return (noise * scale * size).maximum(least), spread / size


def isotropic_basis(rows: Tensor) -> Tensor:
    """Return a basis (B, B) in which normalized rows (m, B) vary about equally in all directions.

    It is Tyler's scatter estimate (1987), combined with the plain scatter of the rows. Tyler's
    estimate alone fails if a third of the outputs share one direction, as the outputs that every
    example excites can. It would shrink all others to 0.
    """
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    turned, white = left * len(rows) ** 0.5, right.T / values * len(rows) ** 0.5
    identity = scatter = torch.eye(rows.shape[1], dtype=rows.dtype)
    for _ in range(TYLER_STEPS):
        lengths = (turned * torch.linalg.solve(scatter, turned.T).T).sum(1, keepdim=True)
        scatter = (turned / lengths).T @ turned
        scatter = (1 - DRAWN) * scatter / scatter.diagonal().mean() + DRAWN * identity
    # With scatter = C C', the basis is C^-T. The scatter in this basis is 1.
    basis: Tensor = white @ torch.linalg.inv(torch.linalg.cholesky(scatter)).T
    return basis


def patterns(factors: Factors, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return p (B, B) for B directions (B, B), and a mask of the outputs with [W, b] h <= 0.

    Each p is scaled so that its h ends in 1.
    """
    inverse = invert(directions.T)
    # The last entry of h fixes the scale and the sign of each direction.
    inverse = inverse / (inverse @ factors.last).unsqueeze(1)
    return inverse, (inverse @ factors.layer.T) <= 0


def invert(matrix: Tensor) -> Tensor:
    """Return the inverse of a matrix (B, B), or its pseudo-inverse if directions coincide, as noise can make them."""
    inverse, failed = torch.linalg.inv_ex(matrix)
    found: Tensor = torch.linalg.pinv(matrix) if bool(failed) else inverse
    return found


def consistency(factors: Factors, directions: Tensor) -> float:
    """Return the fraction of (example, output) pairs on which B directions and the layer agree.

    They agree on a pair if the output is 0 exactly where the pre-activation is not above 0 (section
    3.3 of the paper).
    """
    if float(torch.linalg.svdvals(directions)[-1]) < SINGULAR:
        return 0.0
    return float((factors.zeros(directions) == patterns(factors, directions)[1]).double().mean())


def from_patterns(factors: Factors, below: Tensor) -> Tensor:
    """Return directions (N, B) whose outputs are 0 where the mask `below` (N, m) is true."""
    grams = torch.einsum("nm,mi,mj->nij", below.double(), factors.rows, factors.rows)
    least = torch.linalg.eigh(grams).eigenvectors[:, :, 0]
    return normalize(torch.linalg.solve(factors.basis, least.T).T, dim=1)


def separate(factors: Factors, directions: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Return the batch that follows from B directions (B, B): its inputs (B, F), and their delta (B, outputs)."""
    inverse, _ = patterns(factors, directions)
    features = inverse @ torch.linalg.solve(factors.basis, factors.right)
    caused = factors.scale * (factors.rows @ factors.basis @ invert(inverse))
    delta = torch.zeros((factors.batch, outputs), dtype=torch.float64)
    delta[:, factors.live] = torch.where(factors.zeros(directions), 0.0, caused.T)
    return features[:, :-1], delta


def followed_by_relu(entry: LinearEntry, domain: Domain) -> bool:
    """Return whether a ReLU follows: outputs below 0 have no effect, and most outputs above 0 have one."""
    generator = torch.Generator().manual_seed(0)  # any points can probe the function
    probe = torch.randn((8, entry.layer.out_features), generator=generator, dtype=torch.float64)
    probe.requires_grad_()
    hook = entry.layer.register_forward_hook(lambda *_: probe)
    try:
        with torch.random.fork_rng(devices=[]):  # a model may have dropout
            inputs = domain.from_unit(spread(unit_shape(domain), 8, probe))
            prediction = single(output_of(entry.model, inputs))
    finally:
        hook.remove()
    weights = torch.randn(prediction.shape, generator=generator, dtype=torch.float64)
    with probing():
        (slope,) = torch.autograd.grad((prediction * weights).sum(), [probe], allow_unused=True)
    if slope is None:
        return False
    above = probe.detach() > 0
    moving = float((slope[above] != 0).double().mean())
    return not bool(slope[~above].any()) and moving >= MOSTLY
