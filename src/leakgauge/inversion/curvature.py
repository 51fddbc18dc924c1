"""The Gauss-Newton matrix J'J as a preconditioner: dense where it matters most, a diagonal beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from leakgauge.inversion.basis import basis_of
from leakgauge.inversion.descent import Identification
from leakgauge.inversion.jacobian import Linearization, Tangents
from leakgauge.inversion.problem import Problem, Variables

BLOCK = 768
BANDS, PROBES = 8, 4
SKETCH = 4
"""Rows that a sketch keeps for each column: with fewer, faint directions drown in strong ones."""
LARGEST = 2**27
"""Values of J beyond which it is sketched."""


ROUNDING = 1e-6
"""Singular values of J below this share of the largest are float32's errors, not directions that are seen."""


class Curvature:
    """2 (J'J + priors) at one place, in the coordinates of a basis, the first `kept` of each example dense.

    The diagonal beyond is measured on a few directions of each of eight bands of frequency.
    """

    def __init__(
        self,
        problem: Problem,
        variables: Variables,
        weights: tuple[float, ...],
        *,
        kept: int,
        generator: torch.Generator,
    ) -> None:
        place = Linearization(problem, variables, weights)
        self.basis = basis_of(tuple(variables[0].shape[1:]), problem.observation.domain.kind)
        self.kept = min(kept, self.basis.size)
        self.batch = len(variables[0])
        self.classes = variables[1].shape[1] if len(variables) > 1 else 0
        self.rows, self.sketched = 0, False
        self.matrix = self._matched(place, generator)
        self.beyond = torch.ones(self.batch, self.basis.size - self.kept).to(self.matrix)
        for example in range(self.batch):
            self._add_priors(place, example)
            self.beyond[example] = self._diagonal(place, example)
        self.damping = 0.0
        self.factor: Tensor | None = None

    def _tangents(self, like: Tensor, which: Tensor) -> Tangents:
        """Unit vectors of one example's coordinates: the basis, then the label logits."""
        size = self.basis.size
        unit = torch.zeros(len(which), size + self.classes).to(like)
        unit[torch.arange(len(which)), which] = 1.0
        labels = unit[:, size:] if self.classes else None
        return Tangents(self.basis.back(unit[:, :size]), labels)

    @property
    def width(self) -> int:
        """Dense coordinates of one example."""
        return self.kept + self.classes

    def _dense(self) -> Tensor:
        return torch.cat([torch.arange(self.kept), self.basis.size + torch.arange(self.classes)])

    def _matched(self, place: Linearization, generator: torch.Generator) -> Tensor:
        """2 J'J, the lower triangle of (B width, B width)."""
        tangents = self._tangents(place.unit, self._dense())
        columns: Tensor | None = None
        done, sketch = 0, None
        for example in range(self.batch):
            for chunk in place.columns(example, tangents):
                if columns is None:
                    total = self.batch * self.width
                    self.rows = chunk.shape[1]
                    if self.rows * total > LARGEST:
                        sketch = count_sketch(chunk, SKETCH * total, generator)
                    self.sketched = sketch is not None
                    width = SKETCH * total if self.sketched else self.rows
                    columns = chunk.new_empty(total, width)
                columns[done : done + len(chunk)] = sketch(chunk) if sketch else chunk
                done += len(chunk)
        assert columns is not None, "a batch holds an example"
        self.columns = columns
        return 2 * lower_gram(columns)

    def _add_priors(self, place: Linearization, example: int) -> None:
        if not place.local:
            return
        tangents = self._tangents(place.unit, torch.arange(self.kept))
        columns = torch.cat(list(place.local_columns(example, tangents)))
        here = slice(example * self.width, example * self.width + self.kept)
        self.matrix[here, here] += 2 * lower_gram(columns)

    def _diagonal(self, place: Linearization, example: int) -> Tensor:
        """The diagonal beyond the dense part, a mean for each band."""
        left = self.basis.size - self.kept
        values = torch.ones(left).to(self.matrix)
        for band in torch.arange(left).tensor_split(BANDS):
            if len(band) == 0:
                continue
            probes = band[torch.linspace(0, len(band) - 1, min(PROBES, len(band))).long()]
            tangents = self._tangents(place.unit, self.kept + probes)
            squares = _squares(place.columns(example, tangents))
            if place.local:
                squares = squares + _squares(place.local_columns(example, tangents))
            values[band] = 2 * squares.mean()
        return values

    def identification(self, unknowns: int, most: int) -> Identification:
        """Rank and condition of J, in float64 where it is dense and has at most `most` columns; else a bound.

        Of the inputs' columns alone, the labels held as they were found: logits of a label that is
        certain move nothing, and are no direction of the batch.
        """
        if self.kept < self.basis.size or self.sketched or unknowns > most:
            return Identification(min(self.rows, unknowns), unknowns, None, exact=False)
        inputs = self.columns.reshape(self.batch, self.width, -1)[:, : self.kept]
        gram = lower_gram(inputs.reshape(unknowns, -1).double())
        values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
        counted = values[values > ROUNDING * values[-1]]
        condition = float(counted[-1] / counted[0]) if len(counted) else 1.0
        return Identification(len(counted), unknowns, condition, exact=True)

    def factorize(self, damping: float) -> float:
        """Cholesky with `damping` relative to the mean diagonal, raised tenfold until it succeeds; returns it."""
        diagonal = self.matrix.diagonal()
        kept, mean = diagonal.clone(), float(diagonal.mean())
        while True:
            diagonal.copy_(kept + damping * mean)
            factor, failed = torch.linalg.cholesky_ex(self.matrix)
            if not bool(failed):
                break
            damping *= 10
        diagonal.copy_(kept)
        self.factor, self.damping = factor, damping
        # Directions that nothing sees are as damped as those that the matrix holds.
        self.shift = damping * mean
        return damping

    def inverse(self, like: Variables) -> Callable[[Tensor], Tensor]:
        """Apply the inverse to a flat vector, in the vector's own precision outside the solve."""
        assert self.factor is not None, "factorize first"
        factor, count = self.factor, like[0].numel()

        def apply(vector: Tensor) -> Tensor:
            coordinates = self.basis.to(vector[:count].reshape(like[0].shape))
            logits = vector[count:].reshape(self.batch, self.classes)
            dense = torch.cat([coordinates[:, : self.kept], logits], 1).to(factor)
            solved = torch.cholesky_solve(dense.reshape(-1, 1), factor)
            solved = solved.reshape(self.batch, self.width).to(vector)
            rest = coordinates[:, self.kept :] / (self.beyond + self.shift).to(vector)
            inputs = self.basis.back(torch.cat([solved[:, : self.kept], rest], 1))
            return torch.cat([inputs.reshape(-1), solved[:, self.kept :].reshape(-1)])

        return apply


def _squares(chunks: Iterator[Tensor]) -> Tensor:
    return torch.cat([chunk.square().sum(1) for chunk in chunks])


def lower_gram(columns: Tensor) -> Tensor:
    """The lower triangle of J'J from J' (n, rows), in blocks: half the work of the whole; zero above."""
    gram = columns.new_zeros(len(columns), len(columns))
    for k in range(0, len(columns), BLOCK):
        gram[k : k + BLOCK, : k + BLOCK] = columns[k : k + BLOCK] @ columns[: k + BLOCK].T
    return gram


def count_sketch(
    chunk: Tensor, rows: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor] | None:
    """Each residual, with a random sign, into one of `rows` sums (Charikar et al. 2002); None where there are fewer."""
    width = chunk.shape[1]
    if width <= rows:
        return None
    bucket = torch.randint(rows, (width,), generator=generator).to(chunk.device)
    sign = (2 * torch.randint(2, (width,), generator=generator) - 1).to(chunk)
    return lambda values: values.new_zeros(len(values), rows).index_add_(1, bucket, values * sign)
