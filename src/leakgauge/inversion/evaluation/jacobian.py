"""The Jacobian of the residuals with respect to the variables, by forward derivatives in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leakgauge.core import ModelError, SingleGradient, Tensors
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.objectives.distances import Distance
from leakgauge.inversion.objectives.objective import Candidate, Term
from leakgauge.inversion.simulation.simulator import adaptation, functional_gradient

MEMORY = 2**26
"""Most values of a chunk of tangents of the update."""

Rows = Callable[[Tensors], Tensor]
"""A function from a tangent of the gradient to the tangent of the residuals, a vector."""


@dataclass(frozen=True)
class Tangents:
    """Directions of one example's variables, one in each row.

    Args:
        inputs: Directions (N, ...) of the inputs' variables.
        labels: Directions (N, K) of the labels' variables, or None if the descent does not move
            labels.
    """

    inputs: Tensor
    labels: Tensor | None


class Linearization:
    """The first-order expansion of a problem's residuals at variables v: `r(v + e) = r(v) + J e + ...`.

    The Jacobian J is computed column by column. Often the loss is a mean or a sum over examples,
    and the model treats each example separately. Then the columns of one example need only that
    example's derivatives. `separable` tells whether this is so. It compares the sum of the
    examples' own gradients with the gradient of the batch.

    Args:
        problem: The problem.
        variables: The variables v.
        weights: Weights of the objective's terms.

    Raises:
        ModelError: The update is not one gradient.
    """

    def __init__(self, problem: Problem, variables: Variables, weights: tuple[float, ...]) -> None:
        training = problem.observation.training
        if not isinstance(training, SingleGradient):
            raise ModelError(
                "second-order descent",
                expected="local training whose update is one gradient",
                found=repr(training),
                remedy="choose a first-order descent",
            )
        self.problem = problem
        self.variables = tuple(v.detach() for v in variables)
        self.batch = problem.observation.batch_size
        self.gradient = functional_gradient(problem.observation, training)
        self.unit, self.targets = problem.decode(self.variables)
        self.whole = self.gradient(self.unit, self.targets)
        self.fraction = self._own_factor()
        parts = list(zip(weights, problem.terms, strict=True))
        self.matched = [(w, t) for w, t in parts if t.matches and w > 0]
        self.local = [(w, t) for w, t in parts if t.local and w > 0]
        self.names = [name for name, _ in self._residual_tensors(self.whole)]
        self.compressions = self._compressions()

    @property
    def separable(self) -> bool:
        """Whether the batch's gradient is the mean or the sum of the gradients of its examples."""
        return self.fraction is not None

    def _own_factor(self) -> float | None:
        """Return the weight of each example's gradient in the batch's: 1 / B (mean), 1 (sum), or None if neither."""
        modules = self.problem.observation.model.modules()
        # BatchNorm in train mode refuses a single example. The comparison below finds any other
        # layer that mixes examples.
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in modules):
            return None
        total = {name: torch.zeros_like(t) for name, t in self.whole.items()}
        for i in range(self.batch):
            one = self.gradient(self.unit[i : i + 1], self.targets[i : i + 1])
            total = {name: t + one[name] for name, t in total.items()}
        size = sum(float(t.square().sum()) for t in self.whole.values())
        for fraction in (1 / self.batch, 1.0):
            gaps = (fraction * total[n] - t for n, t in self.whole.items())
            if sum(float(t.square().sum()) for t in gaps) <= 1e-6 * size:
                return fraction
        return None

    def columns(self, example: int, tangents: Tangents) -> Iterator[Tensor]:
        """Yield J's columns along the tangents of one example, as rows (n, residuals), in chunks."""
        moving, at = self._moving(example)
        fraction = 1.0 if self.fraction is None else self.fraction

        def derivative(*directions: Tensor) -> Tensor:
            change = torch.func.jvp(moving, at, directions)[1]
            return self._rows({name: fraction * t for name, t in change.items()})

        size = max(1, MEMORY // max(1, sum(t.numel() for t in self.whole.values())))
        size = min(size, 256)
        for k in range(0, len(tangents.inputs), size):
            chunk = [tangents.inputs[k : k + size].unsqueeze(1)]
            if tangents.labels is not None:
                chunk.append(tangents.labels[k : k + size].unsqueeze(1))
            yield torch.func.vmap(derivative)(*chunk).detach()

    def _moving(self, example: int) -> tuple[Callable[..., Tensors], Variables]:
        """Return the gradient as a function of one example's variables, and those variables."""
        here = slice(example, example + 1)
        at = tuple(v[here] for v in self.variables)
        problem, fixed = self.problem, self.problem.fixed
        if self.separable:
            alone = replace(problem, fixed=None if fixed is None else fixed[here])
            return (lambda *v: self.gradient(*alone.decode(v))), at

        def among(*moved: Tensor) -> Tensors:
            placed = tuple(
                torch.cat([v[:example], m, v[example + 1 :]])
                for v, m in zip(self.variables, moved, strict=True)
            )
            return self.gradient(*problem.decode(placed))

        return among, at

    def _residual_tensors(self, gradient: Tensors) -> list[tuple[str, Tensor]]:
        """Return the weighted residuals of all terms that compare updates, with the names of their tensors."""
        observation = self.problem.observation
        simulated = adaptation(observation)(gradient)
        candidate = Candidate(self.unit, self.targets, simulated, observation.update.tensors)
        found: list[tuple[str, Tensor]] = []
        for weight, term in self.matched:
            if isinstance(term, Distance):
                tensors = term.residual_tensors(candidate)
                found += [(name, weight**0.5 * t) for name, t in tensors.items()]
            else:
                found.append(("", weight**0.5 * least_squares(term, candidate)))
        return found

    def _rows(self, change: Tensors) -> Tensor:
        """Return the change of the residuals for a change of the gradient, compressed if that is exact."""
        pieces = []
        for name, tensor in self._changes(change):
            left = self.compressions.get(name)
            pieces.append(tensor.reshape(-1) if left is None else left(tensor))
        return torch.cat(pieces)

    def _changes(self, change: Tensors) -> list[tuple[str, Tensor]]:
        """Return the change of each residual tensor for a change of the gradient."""

        def outer(gradient: Tensors) -> list[Tensor]:
            return [tensor for _, tensor in self._residual_tensors(gradient)]

        moved = torch.func.jvp(outer, (self.whole,), (change,))[1]
        return list(zip(self.names, moved, strict=True))

    def _compressions(self) -> dict[str, Compression]:
        """Return a compression for each linear layer's weight that allows one.

        The gradient of the weight has the low rank of a small batch. A defense that erases entries
        breaks the rank. A compression that does not keep lengths is left out.
        """
        modules = dict(self.problem.observation.model.named_modules())
        linear = {f"{n}.weight" for n, m in modules.items() if isinstance(m, nn.Linear)}
        found = {
            name: Compression.of(tensor, self.batch)
            for name, tensor in self.whole.items()
            if name in linear and min(tensor.shape) > self.batch
        }
        if not found:
            return {}
        moving, at = self._moving(0)
        generator = torch.Generator().manual_seed(0)
        directions = tuple(torch.randn(v.shape, generator=generator).to(v) for v in at)
        change = torch.func.jvp(moving, at, directions)[1]
        for name, tensor in self._changes(change):
            whole = float(tensor.norm())
            if name in found and abs(float(found[name](tensor).norm()) - whole) > 1e-3 * whole:
                del found[name]
        return found

    def local_products(self, example: int, directions: Tensor) -> Iterator[Tensor]:
        r"""Yield :math:`J^\top J e` of the priors for directions e (N, \*shape).

        The results are rows (n, values), in chunks. Priors do not run the model.
        """
        which = slice(example, example + 1)
        here = self.variables[0][which]
        observed = self.problem.observation.update.tensors

        def residuals(inputs: Tensor) -> Tensor:
            unit = self.problem.parametrization.decode(inputs)
            candidate = Candidate(unit, self.targets, self.whole, observed, which)
            # A prior is a mean over the batch, so one example has the weight 1 / B.
            parts = [
                (w / self.batch) ** 0.5 * least_squares(t, candidate).reshape(-1)
                for w, t in self.local
            ]
            return torch.cat(parts)

        transposed = torch.func.vjp(residuals, here)[1]

        def product(direction: Tensor) -> Tensor:
            moved = torch.func.jvp(residuals, (here,), (direction,))[1]
            back: Tensor = transposed(moved)[0]
            return back.reshape(-1)

        for chunk in torch.split(directions, 256):
            yield torch.func.vmap(product)(chunk.unsqueeze(1)).detach()


@dataclass(frozen=True)
class Compression:
    """Coordinates of the tangent space at a matrix (m, n) of rank r.

    The map is an isometry from m n numbers to r (m + n - r). The gradient of a linear layer's
    weight is a sum of B outer products, so all its changes lie in this space.

    Args:
        left: Left singular vectors (m, r).
        rest: Their orthogonal complement (m, m - r).
        right: Right singular vectors (n, r).
    """

    left: Tensor
    rest: Tensor
    right: Tensor

    @classmethod
    def of(cls, matrix: Tensor, rank: int) -> Compression:
        """Return the compression at a matrix (m, n) with `rank` < min(m, n)."""
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        complement, _ = torch.linalg.qr(left[:, :rank], mode="complete")
        return cls(left[:, :rank], complement[:, rank:], right[:rank].T)

    def __call__(self, tensor: Tensor) -> Tensor:
        along = (self.left.T @ tensor).reshape(-1)
        return torch.cat([along, (self.rest.T @ tensor @ self.right).reshape(-1)])


def least_squares(term: Term, candidate: Candidate) -> Tensor:
    """Return the residuals of a term.

    Raises:
        ModelError: The term is not a sum of squares.
    """
    residuals = term.residuals(candidate)
    if residuals is None:
        raise ModelError(
            "second-order descent",
            expected="an objective whose terms are sums of squares",
            found=repr(term),
            remedy="give the term a residuals method, or choose a first-order descent",
        )
    return residuals
