"""A batch from the gradient of a linear layer that a ReLU follows, as a factorization with known zeros.

    G = [dW, db] = D H,   H = [X, 1] (B, F + 1),   D (O, B) = dL/dz' of each example.

G has rank B. With G = L R by SVD: D = L Q and H = Q^-1 R for one unknown Q (B, B). D_ij is 0 exactly
where example j leaves output i below zero, so each column of Q is a direction q for which L q is sparse
(Dimitrov et al. 2024, section 3). What else the layer tells: z = [W, b] h is above zero where L q is not 0.
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
"""Columns of G fainter than this share of the strongest are scaled like it: they would be mostly noise."""
FAINT = 6.0
"""Outputs below this many standard deviations of their noise tell nothing."""
WITHIN, WITHIN_NOISE = 30.0, 6.0
"""An output counts as zero within so many standard deviations: rounding has longer tails than a Gaussian."""
CLEAN = 1e-5
"""Typical noise of an output of size 1, below which no zero is mistaken for an output that is small."""
TOO_FEW = 8
"""Dimensions beyond the rank, with fewer of which the noise cannot be seen."""
NOISE_STEPS = 2
SINGULAR = 1e-9
MOSTLY = 0.5
TYLER_STEPS = 60
DRAWN = 0.02
"""How far Tyler's estimate is drawn toward the plain one."""


@dataclass(frozen=True)
class Factors:
    """G = scale * rows @ right for the outputs that the batch excites, and the search's own basis.

    rows (m, B), with noise of 1 an entry; right (B, F + 1); live (m,) which outputs these are;
    unit (m, B) = rho * rows @ basis: every output of one length, no direction favored; layer (m, B) maps
    p (B,), for which h = p inv(basis) right, to the pre-activations [W, b] h; last (B,) is the 1 of h.
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
        """B."""
        return self.rows.shape[1]

    @property
    def within(self) -> float:
        """Standard deviations within which an output is zero."""
        return WITHIN if self.clean else WITHIN_NOISE

    def noise(self, directions: Tensor) -> Tensor:
        """Standard deviation (N, m) of the outputs unit @ a of directions a (N, B)."""
        length = (directions @ self.basis.T).norm(dim=1, keepdim=True)
        noise: Tensor = length * self.rho
        return noise

    def zeros(self, directions: Tensor) -> Tensor:
        """Which outputs (N, m) are 0 within their noise."""
        return (directions @ self.unit.T).abs() <= self.within * self.noise(directions)


def relu_entry(observation: Observation) -> LinearEntry | Inapplicable:
    """Return the linear layer that sees the examples, or the reason why it is of no use.

    A ReLU must follow it, and B must be no more than the rank of its gradient can be.
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
            f"batch {batch} > {most}, the rank that the gradient of layer {found.name!r} can have"
        )
    return found


def factors_of(observation: Observation, found: LinearEntry) -> Factors | Inapplicable:
    """Factors of the observed gradient of the layer, or in one line why there are none."""
    tensors, name, layer = observation.update.tensors, found.name, found.layer
    gradient = torch.cat([tensors[f"{name}.weight"], tensors[f"{name}.bias"].unsqueeze(1)], dim=1)
    weights = torch.cat([layer.weight, layer.bias.unsqueeze(1)], dim=1).detach()
    shared = rounding(tensors[f"{name}.weight"]).shared
    return factorize(gradient.double().cpu(), weights, observation.batch_size, shared)


def factorize(
    gradient: Tensor, layer: Tensor, batch: int, rounding: float
) -> Factors | Inapplicable:
    """Factors of the gradient [dW, db] (O, F + 1) of `layer` [W, b], or in one line why there are none.

    rounding: relative error of the entries shared.
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
    # In units of the noise: 2 (sqrt(m) + sqrt(D)) is twice what noise alone would have.
    rank = int((values > 2 * (left.shape[0] ** 0.5 + right.shape[1] ** 0.5)).sum())
    if rank < batch:
        return Inapplicable(
            f"rank {rank} of the layer's gradient < batch {batch}: examples are equal, have almost no "
            "gradient, or drown in noise"
        )
    rows, right = left[:, :batch] * values[:batch], right[:batch] * columns
    heard = rows.norm(dim=1) > FAINT * math.sqrt(batch)
    if int(heard.sum()) < batch:
        return Inapplicable(f"only {int(heard.sum())} outputs of the layer stand out of the noise")
    spread = torch.linalg.svdvals(normalize(rows[heard], dim=1))
    if float(spread[-1]) <= SINGULAR**0.5 * float(spread[0]):
        return Inapplicable(
            "the outputs of the layer that stand out of the noise do not tell all examples apart"
        )
    return prepared(rows[heard], right, scale[heard], live[heard], layer[heard])


def prepared(rows: Tensor, right: Tensor, scale: Tensor, live: Tensor, layer: Tensor) -> Factors:
    """Factors from G = scale rows right, with noise of 1 an entry of `rows`."""
    batch = rows.shape[1]
    basis = isotropic(rows / rows.norm(dim=1, keepdim=True))
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
    """Root mean squares of rows (m, 1), and of columns (1, D) of the rows so scaled."""
    scale = gradient.square().mean(1, keepdim=True).sqrt()
    columns = (gradient / scale).square().mean(0, keepdim=True).sqrt()
    return scale, columns.clamp_min(FLOOR * columns.max())


def noise_sizes(
    gradient: Tensor, scale: Tensor, columns: Tensor, batch: int, rounding: float
) -> tuple[Tensor, Tensor]:
    """The noise of entry (i, k) as a product scale_i columns_k, from what rank B leaves over.

    Never less than what rounding the entries alone makes, where a row looks better by chance or because
    its errors lie in the batch's own directions; and twice that where too little is left over to tell.
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
    # So that scale x columns is the noise, the columns' mean square being 1.
    size = spread.square().mean().sqrt()
    return (noise * scale * size).maximum(least), spread / size


def isotropic(rows: Tensor) -> Tensor:
    """A (B, B) basis in which rows (m, B), each then set to one length, vary about alike in all directions.

    Tyler's scatter estimate (1987), drawn toward that of the rows as they are: without, a third of the
    outputs in one direction, as those that every example excites can be, would shrink all others to 0.
    """
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    turned, white = left * len(rows) ** 0.5, right.T / values * len(rows) ** 0.5
    identity = scatter = torch.eye(rows.shape[1], dtype=rows.dtype)
    for _ in range(TYLER_STEPS):
        lengths = (turned * torch.linalg.solve(scatter, turned.T).T).sum(1, keepdim=True)
        scatter = (turned / lengths).T @ turned
        scatter = (1 - DRAWN) * scatter / scatter.diagonal().mean() + DRAWN * identity
    # scatter = C C' and the basis is C^-T: in it the scatter is 1.
    basis: Tensor = white @ torch.linalg.inv(torch.linalg.cholesky(scatter)).T
    return basis


def patterns(factors: Factors, directions: Tensor) -> tuple[Tensor, Tensor]:
    """For B directions (B, B): the p of each (B, B), scaled to an h that ends in 1, and where [W, b] h <= 0."""
    inverse = inverted(directions.T)
    # This sets each direction's scale, and its sign.
    inverse = inverse / (inverse @ factors.last).unsqueeze(1)
    return inverse, (inverse @ factors.layer.T) <= 0


def inverted(matrix: Tensor) -> Tensor:
    """Return the inverse of a matrix (B, B), or its pseudo-inverse if directions coincide, as they may under noise."""
    inverse, failed = torch.linalg.inv_ex(matrix)
    found: Tensor = torch.linalg.pinv(matrix) if bool(failed) else inverse
    return found


def consistency(factors: Factors, directions: Tensor) -> float:
    """The share of (example, output) pairs that B directions and the layer agree on.

    An output is 0 where the pre-activation is not above 0, and only there (section 3.3 of the paper).
    """
    if float(torch.linalg.svdvals(directions)[-1]) < SINGULAR:
        return 0.0
    return float((factors.zeros(directions) == patterns(factors, directions)[1]).double().mean())


def from_patterns(factors: Factors, below: Tensor) -> Tensor:
    """The directions (N, B) that are 0 where `below` (N, m) says that the pre-activations are not above 0."""
    grams = torch.einsum("nm,mi,mj->nij", below.double(), factors.rows, factors.rows)
    least = torch.linalg.eigh(grams).eigenvectors[:, :, 0]
    return normalize(torch.linalg.solve(factors.basis, least.T).T, dim=1)


def separate(factors: Factors, directions: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """The batch that B directions (B, B) make: inputs (B, F), and their delta (B, outputs)."""
    inverse, _ = patterns(factors, directions)
    features = inverse @ torch.linalg.solve(factors.basis, factors.right)
    caused = factors.scale * (factors.rows @ factors.basis @ inverted(inverse))
    delta = torch.zeros((factors.batch, outputs), dtype=torch.float64)
    delta[:, factors.live] = torch.where(factors.zeros(directions), 0.0, caused.T)
    return features[:, :-1], delta


def followed_by_relu(entry: LinearEntry, domain: Domain) -> bool:
    """Whether outputs of the layer that are below 0 move nothing, and those above mostly do."""
    generator = torch.Generator().manual_seed(0)  # probes of a function: any points serve
    probe = torch.randn((8, entry.layer.out_features), generator=generator, dtype=torch.float64)
    probe.requires_grad_()
    hook = entry.layer.register_forward_hook(lambda *_: probe)
    try:
        with torch.random.fork_rng(devices=[]):  # a model may drop units
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
