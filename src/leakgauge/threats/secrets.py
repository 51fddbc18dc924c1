"""What an observation must not hold, and how to recognize it: the private inputs, their targets, their order."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakgauge.core import Domain
from leakgauge.core.summaries import Summarized
from leakgauge.federated.clients.client import Batch
from leakgauge.federated.isolation.layouts import dense_parts

ALIKE = 0.01
"""Largest distance of a copy from an example, relative to its spread. An 8-bit copy of an image has about 0.004."""
LONG = 32
"""Fewest values by which one example is recognized. Shorter ones are recognized as a batch."""
TELLING = 8
"""Fewest values by which a batch of short examples is recognized."""
ORDERED = 4
"""Fewest examples whose order, or whose targets in their order, can be recognized: fewer agree by chance."""
CHUNK = 1 << 22
"""Most values compared at once."""


@dataclass(frozen=True, repr=False)
class Secrets(Summarized):
    """The private batch in the forms by which it is recognized.

    memory: where its tensors lie. examples: for each number F of values, (N, F) examples in all units.
    batches: whole batches of short examples, flat. targets: whole targets, flat. orders: (B,) each.
    """

    memory: frozenset[int]
    examples: dict[int, Tensor]
    batches: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    orders: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, batches: Sequence[Batch], orders: Sequence[Sequence[int]], domain: Domain
    ) -> Secrets:
        """Return the forms of these batches; `orders` are those in which their examples are visited.

        Inputs are recognized in the domain's units. Real ones are so in unit coordinates in [0, 1] too, and in those
        times 255.
        """
        unique = {(id(b.inputs), id(b.targets)): b for b in batches}.values()
        tensors = [t for b in unique for t in (b.inputs, b.targets)]
        rows: dict[int, list[Tensor]] = {}
        whole = []
        for batch in unique:
            forms = [batch.inputs.detach()]
            # Integers, such as tokens, have no other units. Their relaxed variables are far more than they are.
            if batch.inputs.is_floating_point():
                unit = domain.to_unit(batch.inputs.detach())
                forms += [unit, 255 * unit]
            for form in forms:
                flat = form.double().flatten(1)
                if flat.shape[1] >= LONG:
                    rows.setdefault(flat.shape[1], []).append(flat[spread(flat) > 0])
                elif distinct(flat) >= TELLING:
                    whole.append(flat.flatten())
        told = [b.targets.detach().flatten() for b in unique if len(b) >= ORDERED]
        visited = [torch.tensor(order) for order in orders if len(order) >= ORDERED]
        return cls(
            memory=frozenset(t.untyped_storage().data_ptr() for t in tensors if t.numel()),
            examples={size: torch.cat(parts) for size, parts in rows.items()},
            batches=tuple(whole),
            targets=tuple(t for t in told if not predictable(t)),
            orders=tuple(t for t in visited if not predictable(t)),
        )

    def found_in(self, value: Any) -> str | None:
        """Return what of the private batch a tensor, an array, bytes or a list of numbers is, or None."""
        if isinstance(value, Tensor) and self.shares_memory(value):
            return "memory of the private batch"
        tensor = as_tensor(value)
        if tensor is None or tensor.numel() < ORDERED:
            return None
        if self._holds_example(tensor):
            return "an example of the private batch"
        if any(equal(tensor, whole) for whole in self.batches):
            return "the inputs of the private batch"
        if any(equal(tensor, targets) for targets in self.targets):
            return "the targets of the private batch, in their order"
        if any(equal(tensor, order) for order in self.orders):
            return "the order of the private batch"
        return None

    def shares_memory(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies in the memory of the private batch."""
        try:
            return tensor.numel() > 0 and tensor.untyped_storage().data_ptr() in self.memory
        except (
            RuntimeError,
            NotImplementedError,
        ):  # Sparse and lazy tensors have no memory of their own.
            return False

    def _holds_example(self, tensor: Tensor) -> bool:
        for size, private in self.examples.items():
            if tensor.numel() % size or not len(private):
                continue
            allowed = ALIKE * spread(private)
            for start in range(0, tensor.numel(), CHUNK // size * size or size):
                flat = tensor.reshape(-1)[start : start + (CHUNK // size * size or size)]
                rows = torch.nan_to_num(flat.to(private).reshape(-1, size), 0, 0, 0)
                # No row is near an example unless their lengths are. Few are left to compare.
                near = (rows.norm(dim=1)[:, None] - private.norm(dim=1)).abs() <= allowed
                for row in near.any(1).nonzero().flatten().tolist():
                    if bool(((rows[row] - private).norm(dim=1) <= allowed).any()):
                        return True
        return False


def spread(rows: Tensor) -> Tensor:
    """Return the length (N,) of rows (N, F) less their mean: 0 for a constant row, which proves nothing."""
    centered: Tensor = (rows - rows.mean(1, keepdim=True)).norm(dim=1)
    return centered


def distinct(values: Tensor) -> int:
    """Return how many different values there are."""
    return len(set(values.flatten().tolist()))


def predictable(values: Tensor) -> bool:
    """Return whether whole numbers are so regular that a model may hold the same by chance.

    True of less than three different values, and of steps that are all equal.
    """
    return distinct(values) < 3 or distinct(values.double().diff()) == 1


def equal(tensor: Tensor, private: Tensor) -> bool:
    """Return whether a tensor has the values of `private`, in whatever shape and type."""
    if tensor.numel() != private.numel():
        return False
    return torch.allclose(
        tensor.flatten().double().cpu(), private.double().cpu(), rtol=1e-3, atol=1e-6
    )


def as_tensor(value: Any) -> Tensor | None:
    """Return a dense real tensor of the numbers in `value`, or None if it holds no numbers."""
    if isinstance(value, Tensor):
        parts = [part for each in dense_parts(value) for part in _real(each)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.flatten().double() for part in parts]) if parts else None
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value, dtype=np.float64))
    if isinstance(value, (bytes, bytearray, array.array)):
        raw = bytes(value)
        return torch.frombuffer(bytearray(raw), dtype=torch.float32) if _whole(raw) else None
    if isinstance(value, (list, tuple)) and value:
        numbers = flat_numbers(value)
        return None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
    return None


def _real(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor.real, tensor.imag) if tensor.is_complex() else (tensor,)


def _whole(raw: bytes) -> bool:
    return len(raw) >= 4 * ORDERED and len(raw) % 4 == 0


def flat_numbers(value: Any) -> list[float] | None:
    """Return the numbers of a nested list or tuple, row by row, or None if it holds anything else."""
    found: list[float] = []
    for each in value:
        if isinstance(each, (bool, int, float)):
            if abs(each) > 1e300:
                return None
            found.append(float(each))
        elif isinstance(each, (list, tuple)):
            inner = flat_numbers(each)
            if inner is None:
                return None
            found += inner
        else:
            return None
    return found


__all__ = ["Secrets", "as_tensor"]
