r"""The Gauss-Newton matrix :math:`J^\top J`: a preconditioner, and the rank of the update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leakgauge.inversion.descents.descent import Identification
from leakgauge.inversion.evaluation.jacobian import Linearization, Tangents
from leakgauge.inversion.evaluation.problem import Problem, Variables

BLOCK = 768
"""Rows of a block of the Gram matrix."""
SKETCH = 4
"""Number of rows that a sketch keeps for each column. With fewer rows, strong directions hide faint ones."""
LARGEST = 2**27
"""Most values of a Jacobian that is not sketched."""
ROUNDING = 1e-6
"""Singular values of J below this fraction of the largest are rounding errors of float32."""


class Curvature:
    r"""The matrix :math:`2 (J^\top J + \mathrm{priors})` at one place.

    Here :math:`J` is the Jacobian of the residuals, and priors stands for the Gram matrices of the
    priors. A row stands for one variable. Examples follow each other, each with its input's
    variables, then its label's.

    Args:
        problem: The problem.
        variables: The place.
        weights: Weights of the objective's terms.
        generator: Source of the random numbers of a sketch.
    """

    def __init__(
        self,
        problem: Problem,
        variables: Variables,
        weights: tuple[float, ...],
        generator: torch.Generator,
    ) -> None:
        place = Linearization(problem, variables, weights)
        self.batch, self.size = len(variables[0]), variables[0][0].numel()
        self.classes = variables[1].shape[1] if len(variables) > 1 else 0
        self.rows, self.sketched = 0, False
        self.columns = self._columns(place, generator)
        self.matrix = 2 * lower_gram(self.columns)
        for example in range(self.batch if place.local else 0):
            here = slice(example * self.width, example * self.width + self.size)
            self.matrix[here, here] += 2 * self._priors(place, example)
        self.damping, self.shift = 0.0, 0.0
        self.factor: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of variables of one example."""
        return self.size + self.classes

    def _columns(self, place: Linearization, generator: torch.Generator) -> Tensor:
        """Return the transposed Jacobian (B width, rows)."""
        tangents = unit_tangents(place)
        total, done = self.batch * self.width, 0
        columns, sketch = torch.empty(0), None
        for example in range(self.batch):
            for chunk in place.columns(example, tangents):
                if done == 0:
                    self.rows = chunk.shape[1]
                    if self.rows * total > LARGEST:
                        sketch = count_sketch(chunk, SKETCH * total, generator)
                    self.sketched = sketch is not None
                    columns = chunk.new_empty(total, SKETCH * total if sketch else self.rows)
                columns[done : done + len(chunk)] = sketch(chunk) if sketch else chunk
                done += len(chunk)
        return columns

    def _priors(self, place: Linearization, example: int) -> Tensor:
        """Return the Gram matrix of one example's priors."""
        tangents = torch.eye(self.size).to(self.matrix)
        shaped = tangents.reshape(self.size, *place.unit.shape[1:])
        return torch.cat(list(place.local_products(example, shaped)))

    @property
    def finite(self) -> bool:
        """Whether the Jacobian has no NaN and no infinity. The Jacobian of a square root at 0 has them."""
        return bool(torch.isfinite(self.matrix).all())

    def identification(self, unknowns: int) -> Identification:
        """Return the rank and condition of the Jacobian, counted in float64.

        If the Jacobian is sketched, the rank is a bound.

        Only the inputs' columns count, with fixed labels. A change of a label's variables does not
        change the inputs of the batch.
        """
        if self.sketched or not self.finite:
            return Identification(min(self.rows, unknowns), unknowns, None, exact=False)
        inputs = self.columns.reshape(self.batch, self.width, -1)[:, : self.size]
        gram = lower_gram(inputs.reshape(unknowns, -1).double())
        values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
        above = values[values > ROUNDING * values[-1]]
        condition = float(above[-1] / above[0]) if len(above) else 1.0
        return Identification(len(above), unknowns, condition, exact=True)

    def factorize(self, damping: float) -> float:
        """Compute the Cholesky factor, and return the damping that it needed.

        The damping is raised tenfold until the factor exists. The matrix must be `finite`: no
        damping helps against NaN.

        Args:
            damping: Damping relative to the mean of the diagonal.
        """
        diagonal = self.matrix.diagonal()
        kept, mean = diagonal.clone(), float(diagonal.mean()) or 1.0
        while True:
            diagonal.copy_(kept + damping * mean)
            factor, failed = torch.linalg.cholesky_ex(self.matrix)
            if not bool(failed):
                break
            damping *= 10
        diagonal.copy_(kept)
        self.factor, self.damping, self.shift = factor, damping, damping * mean
        return damping

    def inverse(self, like: Variables) -> Callable[[Tensor], Tensor]:
        """Return a function that applies the inverse to a flat vector.

        The result has the vector's own precision.
        """
        assert self.factor is not None, "call factorize first"
        factor, count = self.factor, like[0].numel()

        def apply(vector: Tensor) -> Tensor:
            inputs = vector[:count].reshape(self.batch, self.size)
            labels = vector[count:].reshape(self.batch, self.classes)
            dense = torch.cat([inputs, labels], 1).to(factor)
            solved = torch.cholesky_solve(dense.reshape(-1, 1), factor)
            solved = solved.reshape(self.batch, self.width).to(vector)
            return torch.cat(
                [solved[:, : self.size].reshape(-1), solved[:, self.size :].reshape(-1)]
            )

        return apply


def bound_rank(
    problem: Problem, variables: Variables, weights: tuple[float, ...]
) -> Identification:
    """Return a bound on the rank from the number of residuals, without their Jacobian."""
    place = Linearization(problem, variables, weights)
    first = unit_tangents(place, most=1)
    rows, unknowns = next(place.columns(0, first)).shape[1], variables[0].numel()
    return Identification(min(rows, unknowns), unknowns, None, exact=False)


def unit_tangents(place: Linearization, most: int | None = None) -> Tangents:
    """Return the unit vectors of one example's variables, inputs first, or the first few of them."""
    shape = place.variables[0].shape[1:]
    size = shape.numel()
    classes = place.variables[1].shape[1] if len(place.variables) > 1 else 0
    unit = torch.eye(size + classes)[:most].to(place.unit)
    labels = unit[:, size:] if classes else None
    return Tangents(unit[:, :size].reshape(-1, *shape), labels)


def lower_gram(columns: Tensor) -> Tensor:
    r"""Return the lower triangle of :math:`J^\top J`, and zero above the blocks of the diagonal.

    It is computed in blocks, which takes half the work of the whole matrix.

    Args:
        columns: The transposed Jacobian (n, rows).
    """
    gram = columns.new_zeros(len(columns), len(columns))
    for k in range(0, len(columns), BLOCK):
        gram[k : k + BLOCK, : k + BLOCK] = columns[k : k + BLOCK] @ columns[: k + BLOCK].T
    return gram


def count_sketch(
    chunk: Tensor, rows: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor] | None:
    """Return a function that sketches residuals, or None if there are no more than `rows` of them.

    Each residual, with a random sign, is added to one of `rows` sums (Charikar et al. 2002).
    """
    width = chunk.shape[1]
    if width <= rows:
        return None
    bucket = torch.randint(rows, (width,), generator=generator).to(chunk.device)
    sign = (2 * torch.randint(2, (width,), generator=generator) - 1).to(chunk)
    return lambda values: values.new_zeros(len(values), rows).index_add_(1, bucket, values * sign)
