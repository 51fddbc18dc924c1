"""Fused attention, whose kernels in PyTorch can be differentiated only once.

Inside `written_out`, elementary operations compute `scaled_dot_product_attention`. These can be
differentiated again, forward and backward, batched and traced.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from leakgauge.core import Observation, Seeds, trainable, unit_shape
from leakgauge.federated.training.fedsgd import stateless

NOTE = "attention: written out, since the fused kernel has no second derivative"


def written_out() -> AbstractContextManager[None]:
    """Return a context in which attention is computed as a product, a softmax and a product."""
    return sdpa_kernel(SDPBackend.MATH)


def notes(observation: Observation, seeds: Seeds) -> tuple[str, ...]:
    """Return a note for the record if a search on this observation writes attention out."""
    with seeds.isolated("attention"):
        return (NOTE,) if fused(observation) else ()


def fused(observation: Observation) -> bool:
    """Return whether a forward pass of the model, as in training, runs a fused attention kernel.

    The pass draws random numbers if the model does.
    """
    like = observation.update.like
    unit = like.new_full((observation.batch_size, *unit_shape(observation.domain)), 0.5)
    inputs, kernels = observation.domain.from_unit(unit), _Kernels()  # type: ignore[no-untyped-call]
    with kernels:
        stateless(observation.model, trainable(observation.model), inputs)
    return kernels.found


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that notices fused attention among the operators that run."""

    found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found = self.found or "scaled_dot_product" in str(func)
        return func(*args, **(kwargs or {}))
