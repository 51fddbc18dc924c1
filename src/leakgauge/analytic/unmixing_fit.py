"""Levenberg-Marquardt steps from many starts at once, for the equations D(Q)' Q = M of softmax unmixing.

R classes enter the fit, and example i has coordinates q_i = q_0 + Z t_i with m free entries t_i.
With `P_i = act'(z_i) W / noise` (R, m) and `D_i = (act(z_i) - target_i) / noise` (R,), the
differential is `d(D' Q) = sum_i P_i dt_i q_i' + D_i (Z dt_i)'`. The normal matrix J'J needs only
products of these, so the Jacobian J is never built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.unmixing_starts import relative_weights
from leakgauge.analytic.whitening import Basis

KEEP = 24
"""Starts are dropped only while there are more than this number."""
LARGE = 256
"""Number of unknowns above which the descent follows only its best start, and ends when that start ends."""
GAIN = 1 - 1e-6
"""A step counts as progress if the cost falls below this factor times the earlier cost."""
PATIENCE = 12
"""Steps without progress of any start after which a descent ends."""


@dataclass(frozen=True)
class Stage:
    """Weights of the equations.

    Args:
        fraction: Assumed error of a direction, as a fraction of its size, in addition to noise of
            1.
        prior: Weight of the prior. It is divided by the prior's width.
        logs: Whether the logarithms of the column sums of the probabilities are additional
            equations. Their slope never vanishes.
    """

    fraction: float
    prior: float
    logs: bool = False


@dataclass
class Fits:
    """State of a descent from S starts.

    Args:
        points: t (S, n, m).
        labels: (S, n).
        cost: (S,).
        gradient: (S, n m).
        normal: J'J (S, n m, n m).
    """

    points: Tensor
    labels: Tensor
    cost: Tensor
    gradient: Tensor
    normal: Tensor

    def take(self, chosen: Tensor) -> Fits:
        """Return some of the fits, by index or mask."""
        return Fits(
            self.points[chosen],
            self.labels[chosen],
            self.cost[chosen],
            self.gradient[chosen],
            self.normal[chosen],
        )

    def put(self, where: Tensor, other: Fits) -> None:
        """Replace the fits marked in `where` (S,) by those of `other`."""
        for name in ("points", "cost", "gradient", "normal"):
            getattr(self, name)[where] = getattr(other, name)[where]


class Equations:
    """The weighted equations of one basis at one stage."""

    def __init__(self, basis: Basis, stage: Stage) -> None:
        self.basis, self.stage = basis, stage
        unit = basis.unit
        if basis.white.layer.has_dbias:
            self.origin = unit / unit.square().sum()
            self.free = torch.linalg.svd(unit.unsqueeze(1))[0][:, 1:]
        else:
            self.origin = torch.zeros_like(unit)
            self.free = torch.eye(len(unit), dtype=torch.float64)
        self.slopes = basis.logits @ self.free
        self.weight = relative_weights(basis, stage.fraction)
        self.center = (basis.center - self.origin) @ self.free

    def inside(self, q: Tensor) -> Tensor:
        """Return t (..., m) of coordinates q (..., K)."""
        t: Tensor = (q - self.origin) @ self.free
        return t

    def outside(self, t: Tensor) -> Tensor:
        """Return q (..., K) of t (..., m)."""
        q: Tensor = self.origin + t @ self.free.T
        return q

    def at(self, points: Tensor, labels: Tensor) -> Fits:
        """Return cost, gradient and J'J at points (S, n, m) for labels (S, n)."""
        basis, link = self.basis, self.basis.white.link
        q = self.outside(points)
        starts, n, m = points.shape
        outputs = q @ basis.logits.T + basis.white.offset
        value = link.value(outputs)
        targets = link.targets[labels]
        delta = (value - targets)[..., basis.rows] / basis.noise
        wrong = (delta.mT @ q - basis.product) * self.weight
        push = link.push(value, self.slopes, basis.rows) / basis.noise.unsqueeze(1)
        weighed, free = q * self.weight, self.free * self.weight.unsqueeze(1)
        flat = push.permute(0, 2, 1, 3).reshape(starts, len(basis.rows), n * m)
        normal = (flat.mT @ flat).reshape(starts, n, m, n, m)
        normal = normal * (weighed @ weighed.mT)[:, :, None, :, None]
        mixed = (flat.mT @ delta.mT).reshape(starts, n, m, n, 1)
        mixed = mixed * (weighed @ free)[:, :, None, None, :]
        normal = normal + mixed + mixed.permute(0, 3, 4, 1, 2)
        normal += (delta @ delta.mT)[:, :, None, :, None] * (free.T @ free)[None, None, :, None, :]
        normal = normal.reshape(starts, n * m, n * m)
        gradient = (push * (weighed @ wrong.mT).unsqueeze(-1)).sum(2) + (delta @ wrong) @ free
        gradient = gradient.reshape(starts, n * m)
        cost = wrong.square().sum((1, 2))
        if self.stage.logs and link.activation == "softmax":
            extra, slope = self.logarithms(outputs, targets)
            cost, normal = cost + extra.square().sum(1), normal + slope.mT @ slope
            gradient = gradient + (slope.mT @ extra.unsqueeze(2)).squeeze(2)
        pull = (points - self.center) * (self.stage.prior / basis.width)
        normal.diagonal(dim1=1, dim2=2).add_((self.stage.prior / basis.width) ** 2)
        gradient = gradient + pull.flatten(1) * (self.stage.prior / basis.width)
        return Fits(points, labels, cost + pull.square().sum((1, 2)), gradient, normal)

    def logarithms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return log sum_i p_i minus its known value (S, R), and its slope (S, R, n m).

        Both are 0 for sums below the noise.
        """
        basis = self.basis
        sums = (basis.white.sums + targets.sum(1))[:, basis.rows]
        clear = (sums > 10 * basis.noise).double()
        logs = outputs.log_softmax(-1)
        chosen = logs[..., basis.rows]
        total = chosen.logsumexp(1)
        fraction = (chosen - total.unsqueeze(1)).exp()
        middle = (logs.exp() @ self.slopes).unsqueeze(-2)
        slope = fraction.unsqueeze(-1) * (self.slopes[basis.rows] - middle)
        slope = slope.permute(0, 2, 1, 3).flatten(2) * clear.unsqueeze(-1)
        return (total - sums.clamp_min(1e-300).log()) * clear, slope

    def descend(self, q: Tensor, labels: Tensor, steps: int, *, halve: int = 0) -> Fits:
        """Return the fits after damped steps from q (S, n, K).

        After every `halve` steps the worse half of the starts is dropped.
        """
        now = self.at(self.inside(q), labels)
        if now.points.shape[2] == 0:
            return now
        damping = torch.full((len(q),), 1e-2, dtype=torch.float64)
        # Steps of large systems are expensive, and their starts are already close. So only the best
        # start is followed.
        large = now.gradient.shape[1] > LARGE
        halve, keep = (halve // 4, 1) if large else (halve, KEEP)
        idle = 0
        for step in range(1, steps + 1):
            move, sound = _step(now, damping)
            then = self.at(now.points + move.reshape(now.points.shape), now.labels)
            better = sound & (then.cost < now.cost)
            before = now.cost.min() if large else now.cost.clone()
            now.put(better, then)
            gained = bool((better & (then.cost < (0.9 if large else GAIN) * before)).any())
            idle = 0 if gained else idle + 1
            if idle == (PATIENCE // 4 if large else PATIENCE):
                break
            damping = torch.where(better, damping / 4, damping * 3).clamp(1e-15, 1e8)
            if halve and step % halve == 0 and len(now.cost) > keep:
                best = now.cost.argsort()[: len(now.cost) // 2]
                now, damping = now.take(best), damping[best]
        return now


def _step(now: Fits, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return damped Gauss-Newton steps (S, n m), scaled by the diagonal (Marquardt), and a mask of the valid ones."""
    size = now.normal.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    scaled = now.normal * size.unsqueeze(2) * size.unsqueeze(1)
    scaled.diagonal(dim1=1, dim2=2).add_(damping.unsqueeze(1))
    factor, failed = torch.linalg.cholesky_ex(scaled)
    sound = failed == 0
    factor[~sound] = torch.eye(factor.shape[1], dtype=torch.float64)
    move = torch.cholesky_solve((now.gradient * size).unsqueeze(2), factor).squeeze(2) * size
    move = torch.where(sound.unsqueeze(1), -move, 0.0)
    return move, sound & move.isfinite().all(1)
