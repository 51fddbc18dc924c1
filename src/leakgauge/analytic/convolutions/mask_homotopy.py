"""The homotopy to the masks and inputs of several examples: a pull to the row space that fades.

See `batch_masks.py` for the problem.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.bounded_factors import BoundedProblem, Factors, patches_of
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.core.pulse import Beat

STIFFNESS = 1.0
"""Penalty of the splitting in each bounded least squares problem."""
MOMENTUM = 0.9
"""Step of the inputs beyond their last change, relative to it. The pull makes plain sweeps slow."""
LOOK = 20
"""Number of sweeps from one rounding of the masks to the next."""
PROMISING = 0.05
"""Residual of the relaxed problem below which the masks are rounded."""
SPREAD = 0.5
"""Deviation of an example's mixture from the common one that a start expects, relative to the common one."""
LAST_ROUNDS = 300
"""Iterations of each bounded problem of the end. A wrong bit is far from its value."""
STALE, POLISHES = 3, 20
"""Number of roundings without a smaller residual that ends the search, and most fits of the levels."""
REWEIGHTED, TYPICAL = 4, 0.3
"""Number of reweightings of the rows, and the misfit that halves a row's weight, relative to the median."""
MIDDLE = (0.2, 0.8)
"""Least and largest mean fraction of active positions that a start assumes."""


@dataclass(frozen=True)
class Homotopy:
    """How the pull to the row space fades.

    Args:
        weight: First weight of the pull. 1 is the weight of the gradient.
        decay: Factor of the weight from one sweep to the next, below 1.
        sweeps: Number of sweeps.
        doubt: Weight of the pull of the masks to 1/2. See `BoundedProblem.signals`.
        rounds: Iterations of each bounded least squares problem.
    """

    weight: float
    decay: float
    sweeps: int
    doubt: float = 0.0
    rounds: int = 15


SCHEDULES = (
    Homotopy(30.0, 0.96, 240, doubt=10.0, rounds=30),
    Homotopy(10.0, 0.985, 600, doubt=2.0),
    Homotopy(10.0, 0.98, 480),
)
"""Schedules in the order of their attempts.

The first suits two examples, the others more of them. Much doubt drowns examples of small loss.
"""


@dataclass(frozen=True, eq=False)
class Rounded:
    """Factors with rounded masks, and their residual."""

    factors: Factors
    residual: float


@dataclass(frozen=True, eq=False)
class MaskSearch:
    """The problem with rows of norm 1, the levels (O, B), the row space (r, C K), and the beat."""

    problem: BoundedProblem
    levels: Tensor
    space: Tensor
    beat: Beat

    @property
    def sums(self) -> Tensor:
        """The sums (O,) of the signals."""
        assert self.problem.sums is not None
        return self.problem.sums

    def start(self, span: Tensor) -> Factors:
        """Return factors from vectors that span the inputs. The expected row sums tell the mixture."""
        positions = self.problem.geometry.positions
        whole = self.levels.sum(1)
        share = float(self.sums @ whole / (whole @ whole)) / positions
        mean = positions * min(max(share, MIDDLE[0]), MIDDLE[1])
        miss = (self.sums - whole * mean) / self.levels.pow(2).sum(1)
        counts = (mean + self.levels * miss[:, None]).clamp(0, positions)
        patches = patches_of(span, self.problem.geometry)
        free = self.problem.rows.flatten(1) @ torch.linalg.pinv(patches, rtol=1e-9)
        seen = free.reshape(len(free), len(span), positions).sum(2)
        mixture = _mixture(self.levels * counts, seen)
        inputs = torch.einsum("ba,acn->bcn", mixture, span).clamp_min(0)
        signals = (self.levels * counts / positions)[:, :, None].expand_as(self.problem.lower)
        return Factors(signals, inputs)

    def follow(self, factors: Factors, schedule: Homotopy, tolerance: float) -> tuple[Rounded, int]:
        """Return the best factors with rounded masks on the way, and the number of sweeps."""
        best, done, before = Rounded(factors, torch.inf), 0, factors.inputs
        for done in range(1, schedule.sweeps + 1):
            self.beat()
            ahead = (factors.inputs + MOMENTUM * (factors.inputs - before)).clamp_min(0)
            before = factors.inputs
            rounds = schedule.rounds
            signals = self.problem.signals(ahead, factors.signals, rounds, schedule.doubt)
            pull = (self._wanted(ahead), schedule.weight * schedule.decay ** (done - 1))
            factors = Factors(signals, self.problem.inputs(signals, ahead, rounds, pull))
            last = done == schedule.sweeps
            if (done % LOOK == 0 and self.problem.residual(factors) < PROMISING) or last:
                best = min(best, self.finish(factors), key=lambda r: r.residual)
                if best.residual < tolerance:
                    break
        return best, done

    def finish(self, factors: Factors) -> Rounded:
        """Return the factors with rounded masks that follow from each other, as long as they improve.

        Rows with wrong bits fit badly. They count less for the inputs, which then correct the bits.
        """
        best, stale = Rounded(factors, torch.inf), 0
        while stale < STALE:
            signals = self.rounded(factors.signals)
            settled = torch.equal(signals, best.factors.signals)
            found = Factors(signals, self.problem.free_inputs(signals))
            residual = self.problem.residual(found)
            stale = 0 if residual < 0.99 * best.residual else stale + 1
            best = min(best, Rounded(found, residual), key=lambda r: r.residual)
            if settled:
                break
            inputs = self.reweighted(found).inputs.clamp_min(0)
            factors = Factors(self.problem.signals(inputs, signals, LAST_ROUNDS), inputs)
        return self.polished(best)

    def polished(self, best: Rounded) -> Rounded:
        """Return the factors with levels and inputs that fit to the masks, as long as they improve."""
        search = self
        for _ in range(POLISHES):
            search = search.fitted(search.reweighted(best.factors))
            signals = torch.where(best.factors.signals != 0, search.levels[:, :, None], 0.0)
            found = Factors(signals, search.problem.free_inputs(signals))
            residual = search.problem.residual(found)
            if residual > 0.9 * best.residual:
                break
            best = Rounded(found, residual)
        return best

    def reweighted(self, found: Factors) -> Factors:
        """Return factors with inputs to which the rows that fit badly count little."""
        for _ in range(REWEIGHTED):
            misfits = self.problem.misfits(found)
            weights = 1 / (misfits + TYPICAL * misfits.median())
            found = Factors(found.signals, self.problem.free_inputs(found.signals, weights))
        return found

    def rounded(self, signals: Tensor) -> Tensor:
        """Return signals that are 0 or the level, whichever is nearer."""
        full = self.levels[:, :, None]
        return torch.where(signals / torch.where(full == 0, 1.0, full) > 0.5, full, 0.0)

    def fitted(self, found: Factors) -> MaskSearch:
        """Return the search with levels that fit to the masks and inputs. Each example keeps its scale."""
        masks = (found.signals != 0).to(found.signals)
        patches = patches_of(found.inputs, self.problem.geometry)
        patches = patches.reshape(len(found.inputs), -1, patches.shape[1])
        each = torch.einsum("obp,bpj->ojb", masks, patches)
        rows = self.problem.rows.flatten(1)[:, :, None]
        levels = (torch.linalg.pinv(each, rtol=1e-6) @ rows)[:, :, 0]
        levels = torch.where(masks.any(2), levels, self.levels)
        levels = torch.where(levels * self.levels > 0, levels, self.levels)
        levels = levels * ((levels * self.levels).sum(0) / levels.pow(2).sum(0))
        lower, upper = _bounds(levels, self.problem.geometry)
        return replace(self, problem=replace(self.problem, lower=lower, upper=upper), levels=levels)

    def _wanted(self, inputs: Tensor) -> Tensor:
        """Return the sums (B, C, N) of the taps of patches projected on the row space."""
        geometry = self.problem.geometry
        patches = geometry.unfold(inputs).movedim(-2, -3)
        flat = patches.flatten(-2)
        near = ((flat @ self.space.T) @ self.space).reshape(patches.shape)
        return geometry.fold(near.movedim(-2, -3))


def _mixture(expected: Tensor, seen: Tensor) -> Tensor:
    """Return the mixture (B, A) of A vectors in B examples, from row sums (O, B) and (O, A).

    The fit is shrunk to one mixture for all examples, as far as its misfit asks for it.
    """
    whole = expected.sum(1)
    common = (whole @ seen) / (whole @ whole)
    plain: Tensor = torch.linalg.lstsq(expected, seen, driver="gelsd").solution
    noise = (seen - expected @ plain).pow(2).sum() / max(seen.numel() - plain.numel(), 1)
    weight = noise / (SPREAD**2 * common.pow(2).mean())
    gram = expected.T @ expected
    gram = gram + weight * torch.eye(len(gram)).to(gram)
    own: Tensor = torch.linalg.solve(gram, expected.T @ (seen - whole[:, None] * common))
    return common + own


def mask_search(
    rows: Tensor, sums: Tensor, levels: Tensor, geometry: Geometry, beat: Beat
) -> MaskSearch:
    """Return the problem with rows of norm 1."""
    sizes = rows.flatten(1).norm(dim=1)
    rows, sums, levels = rows / sizes[:, None, None], sums / sizes, levels / sizes[:, None]
    lower, upper = _bounds(levels, geometry)
    _, values, space = torch.linalg.svd(rows.flatten(1), full_matrices=False)
    problem = BoundedProblem(rows, lower, upper, geometry, sums, STIFFNESS)
    return MaskSearch(problem, levels, space[values > 1e-6 * values[0]], beat)


def _bounds(levels: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the least and the largest signals (O, B, P)."""
    shape = (*levels.shape, geometry.positions)
    lower, upper = levels.clamp_max(0)[:, :, None], levels.clamp_min(0)[:, :, None]
    return lower.expand(shape), upper.expand(shape)
