"""The error of an update's entries, as an adversary knows or estimates it.

Four sources tell the error:

- the noise that a known defense adds;
- the number format, which the values themselves show;
- the entries that were not sent. The smallest sent entry of a tensor bounds them;
- the singular values of a convolution's gradient. With B examples and P positions, no more than B P
  of them are signal. The rest shows the error, whatever its cause.

References:
    Ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

EXACT = 1e-5
"""Relative error of a gradient below which it counts as exact up to the rounding of float32."""
DROPPED = 30.0
"""Smallest sent entry from which on zeros count as not sent, in units of the root mean square over the number sent.

The smallest of n entries is about 1 / n of their size.
"""
SPARE = 8
"""Least number of singular values behind the signal that show the error."""
WHOLE = 1e-3
"""Largest distance from a whole multiple at which an entry counts as rounded to multiples of a step."""
LEAST = 1e-3
"""Least ratio of the errors of sent and other entries. Smaller ones make least squares ill-conditioned."""
ENOUGH = 32
"""Least number of sent entries that show that a tensor is rounded to multiples of a step."""
LEVELS = 127.5
"""Largest number of steps of a tensor that is rounded to multiples of a step."""


@dataclass(frozen=True, eq=False)
class EntryError:
    """The error of one tensor's entries.

    Args:
        sigma: Standard deviation of a sent entry, in the tensor's units.
        bound: Largest size of an entry that was not sent. 0 if all were sent.
        size: Root mean square of the tensor's entries.
        dropped: Fraction of the entries that were not sent.
        white: The part of sigma that does not grow with the entries, such as noise.
    """

    sigma: float
    bound: float
    size: float
    dropped: float
    white: float = 0.0

    @property
    def alike(self) -> float:
        """Root mean square of errors that do not grow with the entries, in the units of the tensor."""
        return math.sqrt(self.white**2 + self.dropped * self.unsent**2)

    @property
    def relative(self) -> float:
        """The root mean square error of all entries, relative to the entries' own."""
        square = self.sigma**2 + self.dropped * self.unsent**2
        return math.sqrt(square) / max(self.size, torch.finfo(torch.float64).tiny)

    @property
    def unsent(self) -> float:
        """Standard deviation of an entry that was not sent, if all sizes up to the bound are as likely."""
        return self.bound / math.sqrt(3)

    @property
    def graded(self) -> bool:
        """Whether entries that were not sent are much less certain than the others."""
        return self.unsent > 2 * self.sigma

    @property
    def sure(self) -> float:
        """Standard deviation of a sent entry in weighted least squares, in the tensor's units."""
        return max(self.sigma, LEAST * self.unsent)

    def weights(self, tensor: Tensor) -> Tensor | None:
        """Return weights of a tensor's entries for least squares, 1 for sent ones, or None if all weigh the same."""
        if not self.graded:
            return None
        return torch.where(tensor != 0, 1.0, (self.sure / self.unsent) ** 2).double()


def least_sure(error: float) -> float:
    """Return the size above which a value behind a ReLU is more likely positive than 0.

    Half of the values are 0, and the others have a density of about 1/2 near 0. All sizes are relative
    to the root mean square of the values.

    Args:
        error: Standard deviation of the values.

    Example:
        >>> from leakgauge.analytic.convolutions.update_error import least_sure
        >>> [round(least_sure(error) / error, 1) for error in (1e-4, 1e-2, 1e-1)]
        [4.3, 3.0, 2.1]
    """
    return error * math.sqrt(2 * math.log(1 / min(error, 0.5))) if error > 0 else 0.0


def error_of(tensor: Tensor, *, noise: float | None, rounding: float) -> EntryError:
    """Return the error of a tensor, from what is known and from its values.

    Args:
        tensor: The tensor.
        noise: Standard deviation of the known noise, in the tensor's units, or None.
        rounding: Relative rounding error of the update's number format.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.update_error import error_of
        >>> tensor = torch.linspace(-1, 1, 1000, dtype=torch.float64)
        >>> error = error_of(tensor * (tensor.abs() > 0.5), noise=None, rounding=6e-8)
        >>> error.dropped, round(error.bound, 1)
        (0.5, 0.5)
    """
    sizes = tensor.abs()
    size = float(tensor.square().mean().sqrt())
    sent = sizes[sizes > 0]
    if not len(sent):
        return EntryError(0.0, 0.0, 0.0, 0.0)
    least = float(sent.min())
    white = noise or 0.0
    sigma = math.hypot(white, rounding * size)
    steps = sent / least
    if (
        len(sent) >= ENOUGH
        and float(steps.max()) < LEVELS
        and float((steps - steps.round()).abs().max()) < WHOLE
    ):
        white = math.hypot(white, least / math.sqrt(12))
        return EntryError(math.hypot(white, rounding * size), 0.0, size, 0.0, white)
    if least < DROPPED * size / len(sent) or not _has_gaps(tensor):
        return EntryError(sigma, 0.0, size, 0.0, white)
    return EntryError(sigma, least, size, 1 - len(sent) / tensor.numel(), white)


def _has_gaps(tensor: Tensor) -> bool:
    """Return whether rows and columns that hold other entries hold zeros. Silent channels give whole ones."""
    sent = tensor != 0
    if tensor.ndim < 2:
        return not bool(sent.all())
    flat = sent.flatten(1)
    return not bool(flat[flat.any(1)][:, flat.any(0)].all())


def tail_error(dweight: Tensor, positions: int) -> float | None:
    """Return the standard deviation of noise that the singular values behind the signal show, or None.

    Args:
        dweight: Gradient `(O, C, *kernel)` of a convolution.
        positions: Number of positions B P of the whole batch.
    """
    flat = dweight.flatten(1)
    flat = flat[flat.abs().amax(1) > 0][:, flat.abs().amax(0) > 0]
    rows, columns = flat.shape
    if min(rows, columns) < positions + SPARE:
        return None
    gram = flat @ flat.T if rows <= columns else flat.T @ flat
    squares = torch.linalg.eigvalsh(gram)[: len(gram) - positions].clamp_min(0)
    return math.sqrt(float(squares.sum()) / ((rows - positions) * (columns - positions)))


def hidden_rank(dweight: Tensor, sigma: float, positions: int) -> int:
    """Return how many of the singular values of the signal white noise of this size hides.

    Args:
        dweight: Gradient `(O, C, *kernel)` of a convolution.
        sigma: Standard deviation of the noise.
        positions: Number of positions B P of the whole batch.
    """
    flat = dweight.flatten(1)
    edge = sigma * (math.sqrt(flat.shape[0]) + math.sqrt(flat.shape[1]))
    gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    seen = int((torch.linalg.eigvalsh(gram) > edge**2).sum())
    return max(positions - seen, 0)


@dataclass(frozen=True, eq=False)
class UpdateError:
    """The errors of an update's tensors.

    Args:
        entries: The error of each tensor, by name.
    """

    entries: Mapping[str, EntryError]

    def relative(self, names: Iterable[str]) -> float:
        """Return the largest relative error of some tensors."""
        return max((self.entries[n].relative for n in names if n in self.entries), default=0.0)


def update_error(
    gradients: Mapping[str, Tensor],
    positions: Mapping[str, int],
    *,
    noise: float | None,
    rounding: float,
) -> UpdateError:
    """Return the errors of all tensors of an update.

    Args:
        gradients: The tensors by name, in float64.
        positions: Number of positions B P of the whole batch, for each convolution's weight.
        noise: Standard deviation of the known noise on each entry, in the tensors' units, or None.
        rounding: Relative rounding error of the update's number format.
    """
    found = {
        name: error_of(tensor, noise=noise, rounding=rounding) for name, tensor in gradients.items()
    }
    if noise is not None:
        return UpdateError(found)
    tails = {
        name: tail
        for name, count in positions.items()
        if name in found and not found[name].bound
        for tail in [tail_error(gradients[name], count)]
        if tail is not None
    }
    if not tails:
        return UpdateError(found)
    # White noise has one size in all tensors. Other errors grow with the entries.
    white = max(tails.values()) < 2 * min(tails.values())
    typical = median(tails.values())
    ratio = median(tail / found[name].size for name, tail in tails.items())
    for name, entry in found.items():
        tail = tails.get(name, typical if white else ratio * entry.size)
        found[name] = replace(
            entry, sigma=max(entry.sigma, tail), white=max(entry.white, tail if white else 0.0)
        )
    return UpdateError(found)
