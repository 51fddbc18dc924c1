"""Recognition of the private inputs, their targets and their order, which an observation must not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakgauge.core import Domain, TextDomain
from leakgauge.core.summaries import Summarized
from leakgauge.federated.clients.client import Batch
from leakgauge.threats.likeness import ALIKE, Likeness
from leakgauge.threats.vectors import READABLE, raw_bytes, unordered, vectors

LONG = 32
"""Fewest values of an example that is recognized alone. Shorter examples are recognized as a batch."""
TELLING = 8
"""Fewest distinct values of a batch of short examples that is recognized."""
ORDERED = 4
"""Fewest examples whose order or targets can be recognized. Fewer agree by chance."""
WORDS = 4
"""Fewest tokens of a text that is recognized in a string."""
CHUNK = 1 << 22
"""Most values that are compared at once."""


@dataclass(frozen=True, repr=False)
class Secrets(Summarized):
    """The private batch, in the forms by which it is recognized.

    Args:
        memory: Addresses of the memory that holds its tensors.
        examples: For each number of values F, the examples (N, F) in all units.
        scalable: Examples (N, F...) that are recognized after a scale and a shift.
        batches: Whole batches of short examples, as vectors.
        targets: Whole targets, as vectors.
        orders: Orders (B,) in which examples are visited.
        sentences: Texts of examples that are sequences of tokens.
    """

    memory: frozenset[int]
    examples: dict[int, Tensor]
    scalable: tuple[Tensor, ...]
    batches: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    orders: tuple[Tensor, ...]
    sentences: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, batches: Sequence[Batch], orders: Sequence[Sequence[int]], domain: Domain
    ) -> Secrets:
        """Return the forms of some batches.

        Inputs are recognized in the domain's units. Real inputs are also recognized in unit
        coordinates, from 0 to 1 and from 0 to 255.

        Args:
            batches: The batches.
            orders: The orders in which their examples are visited.
            domain: The space of the inputs.
        """
        unique = {(id(b.inputs), id(b.targets)): b for b in batches}.values()
        tensors = [t for b in unique for t in (b.inputs, b.targets)]
        rows: dict[int, list[Tensor]] = {}
        whole, scalable = [], []
        for batch in unique:
            inputs = batch.inputs.detach()
            forms = [inputs]
            # Integers, such as tokens, have no other units. Their relaxed form would have far more values.
            if batch.inputs.is_floating_point():
                unit = domain.to_unit(inputs)
                forms += [unit, 255 * unit]
                if inputs[0].numel() >= LONG:
                    # Raw features of different scales look equal, because the largest one decides. Pixels do not.
                    scalable.append(unit)
                    if inputs.ndim > 2 and not torch.equal(unit, inputs):
                        scalable.append(inputs)
            for form in forms:
                flat = form.double().flatten(1)
                if flat.shape[1] >= LONG and form.is_floating_point():
                    rows.setdefault(flat.shape[1], []).append(flat[spread(flat) > 0])
                elif flat.shape[1] < LONG and count_distinct(flat) >= TELLING:
                    whole.append(flat.flatten())
            # Whole numbers agree by chance far less than measured ones do.
            for row in sequences(inputs, domain):
                rows.setdefault(len(row), []).append(row[None])
        targets = [b.targets.detach().flatten() for b in unique if len(b) >= ORDERED]
        visited = [torch.tensor(order) for order in orders if len(order) >= ORDERED]
        return cls(
            memory=frozenset(t.untyped_storage().data_ptr() for t in tensors if t.numel()),
            examples={size: torch.cat(parts) for size, parts in rows.items()},
            scalable=tuple(scalable),
            batches=tuple(whole),
            targets=tuple(t for t in targets if not is_predictable(t)),
            orders=tuple(t for t in visited if not is_predictable(t)),
            sentences=tuple(text for batch in unique for text in texts_of(batch, domain)),
        )

    def find_in(self, value: Any, *, learned: bool = False) -> str | None:
        """Return the part of the private batch that a value holds, or None if it holds none.

        Args:
            value: A tensor, an array, bytes, text or a collection of numbers. Other values hold
                nothing.
            learned: Whether `value` is a parameter of the protocol. Steps from zero weights may
                make it a multiple of an example. Then only the exact values count as a copy.
        """
        if not isinstance(value, READABLE):
            return None
        if isinstance(value, Tensor) and self.shares_memory(value):
            return "memory of the private batch"
        if isinstance(value, str) and any(text in value for text in self.sentences):
            return "the text of an example of the private batch"
        for tensor in vectors(value):
            found = self._find_in_vector(tensor, learned=learned)
            if found is not None:
                return found
        values = unordered(value)
        if values is not None and any(same(values, held) for held in self._sets):
            return "the values of an example of the private batch"
        # An example has at least one byte for each value, so shorter texts are skipped.
        long = [raw for raw in raw_bytes(value) if len(raw) >= min(self.examples, default=0)]
        if any(text in raw for raw in long for text in self._texts):
            return "the bytes of an example of the private batch"
        return None

    def _find_in_vector(self, tensor: Tensor, *, learned: bool) -> str | None:
        """Return the part of the private batch that a tensor holds, or None if it holds none."""
        if tensor.numel() < ORDERED:
            return None
        if self._holds_example(tensor) or (not learned and self._holds_likeness(tensor)):
            return "an example of the private batch"
        if any(equal(tensor, whole) for whole in self.batches):
            return "the inputs of the private batch"
        if any(equal(tensor, targets) for targets in self.targets):
            return "the targets of the private batch, in their order"
        if any(equal(tensor, order) for order in self.orders):
            return "the order of the private batch"
        return None

    @cached_property
    def _sets(self) -> list[Tensor]:
        """The distinct values of each example, in ascending order.

        Sets with few or evenly spaced values identify nothing, and are left out.
        """
        sets = [row.unique() for rows in self.examples.values() for row in rows.cpu()]
        return [held for held in sets if len(held) >= LONG and not is_predictable(held)]

    @cached_property
    def _texts(self) -> list[bytes]:
        """The bytes of each example, in each type in which it may be stored."""
        texts = set()
        for rows in self.examples.values():
            for row in rows.cpu().numpy():
                with np.errstate(all="ignore"):
                    forms = [row.astype(kind) for kind in (np.float16, np.float32, np.float64)]
                    forms += [row.astype(np.int32), row.astype(np.int64)]
                    if row.min() >= 0 and row.max() < 256:
                        forms += [row.astype(np.uint8), row.round().astype(np.uint8)]
                # Rounding may reduce an example to a constant, which identifies nothing.
                texts |= {
                    form.tobytes() for form in forms if np.count_nonzero(np.diff(form)) >= TELLING
                }
        return sorted(texts)

    def shares_memory(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies in the memory of the private batch."""
        try:
            return tensor.numel() > 0 and tensor.untyped_storage().data_ptr() in self.memory
        except (RuntimeError, NotImplementedError):
            # Sparse and lazy tensors have no memory of their own.
            return False

    def _holds_example(self, tensor: Tensor) -> bool:
        """Return whether a row of a tensor is close to an example, in any unit."""
        for size, private in self.examples.items():
            if tensor.numel() % size or not len(private):
                continue
            allowed = ALIKE * spread(private)
            for rows in rows_of(tensor, size, private):
                # Rows can be near only if their lengths are. This leaves few to compare.
                near = (rows.norm(dim=1)[:, None] - private.norm(dim=1)).abs() <= allowed
                for row in near.any(1).nonzero().flatten().tolist():
                    if bool(((rows[row] - private).norm(dim=1) <= allowed).any()):
                        return True
        return False

    def _holds_likeness(self, tensor: Tensor) -> bool:
        """Return whether a row of a tensor is an example after a scale, a shift or a change of its axes."""
        for number, examples in enumerate(self.scalable):
            size = examples[0].numel()
            if tensor.numel() % size:
                continue
            likeness = self._likeness(number)
            laid = [tensor]
            # The batch may be the last axis.
            if tensor.numel() > size and size in np.cumprod(tensor.shape):
                laid.append(tensor.reshape(size, -1).T)
            for each in laid:
                if any(map(likeness.holds, rows_of(each, size, likeness.rows))):
                    return True
        return False

    def _likeness(self, number: int) -> Likeness:
        """Return the standardized form of the examples with that number. It is computed when first needed."""
        if number not in self._likenesses:
            self._likenesses[number] = Likeness.of(self.scalable[number])
        return self._likenesses[number]

    @cached_property
    def _likenesses(self) -> dict[int, Likeness]:
        """Standardized examples that were computed so far, by their number."""
        return {}


def rows_of(tensor: Tensor, size: int, like: Tensor) -> Iterator[Tensor]:
    """Yield the values of a tensor as rows (R, size), in pieces, with the type and the device of `like`."""
    step = CHUNK // size * size or size
    flat = tensor.reshape(-1)
    for start in range(0, tensor.numel(), step):
        part = flat[start : start + step].to(like)
        yield torch.nan_to_num(part.reshape(-1, size), 0, 0, 0)


def same(values: Tensor, private: Tensor) -> bool:
    """Return whether two sorted vectors have the same values, up to the rounding of float32."""
    return values.shape == private.shape and torch.allclose(values, private, rtol=1e-6, atol=1e-9)


def spread(rows: Tensor) -> Tensor:
    """Return the length (N,) of rows (N, F) minus their mean. A constant row has 0 and identifies nothing."""
    centered: Tensor = (rows - rows.mean(1, keepdim=True)).norm(dim=1)
    return centered


def count_distinct(values: Tensor) -> int:
    """Return the number of different values."""
    return len(set(values.flatten().tolist()))


def sequences(inputs: Tensor, domain: Domain) -> list[Tensor]:
    """Return sequences of whole numbers, with and without their padding. Those that say too little are left out."""
    if inputs.is_floating_point():
        return []
    rows = list(inputs.double().flatten(1))
    if isinstance(domain, TextDomain):
        rows += [
            row[:size] for row, size in zip(rows, domain.lengths(inputs).tolist(), strict=True)
        ]
    return [row for row in rows if count_distinct(row) >= TELLING and not is_predictable(row)]


def texts_of(batch: Batch, domain: Domain) -> list[str]:
    """Return the texts of a batch. Those of few tokens or few characters are left out."""
    if not isinstance(domain, TextDomain) or not domain.pieces:
        return []
    spoken = [text for text in map(domain.parts, batch.inputs) if sum(map(bool, text)) >= WORDS]
    texts = ["".join(parts).strip() for parts in spoken]
    return [text for text in texts if len(text) >= LONG]


def is_predictable(values: Tensor) -> bool:
    """Return whether whole numbers are so regular that a model may hold them by chance.

    They are if fewer than three differ, or if all steps are equal.
    """
    return count_distinct(values) < 3 or count_distinct(values.double().diff()) == 1


def equal(tensor: Tensor, private: Tensor) -> bool:
    """Return whether a tensor has the values of `private`, in any shape and type."""
    if tensor.numel() != private.numel():
        return False
    return torch.allclose(
        tensor.flatten().double().cpu(), private.double().cpu(), rtol=1e-3, atol=1e-6
    )


__all__ = ["Secrets"]
