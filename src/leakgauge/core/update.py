"""The update that a client shares: a gradient or a weight difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from leakgauge.core.errors import OutputError, UpdateError
from leakgauge.core.files import check_path, reason
from leakgauge.core.ranges import check_fields
from leakgauge.core.summaries import Summarized
from leakgauge.core.tensors import REALS, is_plain_real, read_tensors

UpdateKind = Literal["gradient", "delta"]
"""Kind of an update: the gradient of one step, or a weight difference."""
Tensors = dict[str, Tensor]
"""Tensors by the name of the parameter."""


@dataclass(frozen=True, repr=False)
class Update(Summarized):
    """The update that a client shares: one tensor for each trainable parameter of the model.

    It is a gradient (FedSGD) or a weight difference (FedAvg). Load one from a file to audit a real
    update.

    Args:
        tensors: The tensors by parameter name, each with the shape of its parameter.
        kind: "gradient", the default, or "delta" for a weight difference.

    Raises:
        UpdateError: A name is not text, a value is not a tensor, or the kind is unknown.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.ones(2, 3)})
        >>> update.map(lambda tensor: 2 * tensor).tensors["weight"].sum()
        tensor(12.)
    """

    tensors: Tensors
    kind: UpdateKind = "gradient"

    def __post_init__(self) -> None:
        """Raise UpdateError unless names are text, values are tensors, and the kind is one of UpdateKind."""
        # A subclass of str can carry more than its text, so a plain string replaces it.
        object.__setattr__(self, "kind", plain_kind(self.kind))
        check_fields(self, UpdateError)

    def map(self, function: Callable[[Tensor], Tensor]) -> Update:
        """Return the update with `function` applied to each tensor."""
        return Update({name: function(t) for name, t in self.tensors.items()}, self.kind)

    def detached(self) -> Update:
        """Return a copy that shares neither memory nor graph with this one."""
        return self.map(lambda t: t.detach().clone())

    @property
    def like(self) -> Tensor:
        """One of the tensors, as a model for the type and device of new tensors.

        Raises:
            UpdateError: The update has no tensors.
        """
        if not self.tensors:
            raise UpdateError(
                "update",
                expected="at least one tensor",
                found="none",
                remedy="pass the update that the client shared",
            )
        return next(iter(self.tensors.values()))

    @property
    def size(self) -> int:
        """Number of scalars in all tensors."""
        return sum(t.numel() for t in self.tensors.values())

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise UpdateError unless the tensors fit `parameters` in name and shape, and are finite.

        Args:
            parameters: Trainable parameters of the model, by name.
        """
        missing = sorted(set(parameters) - set(self.tensors))
        extra = sorted(set(self.tensors) - set(parameters))
        if missing or extra:
            raise UpdateError(
                "update",
                expected="one tensor for each trainable parameter of the model",
                found=f"missing {missing[:3]}, unknown {extra[:3]}",
                remedy="pass the model that this update was computed on",
            )
        for name, tensor in self.tensors.items():
            if tensor.shape != parameters[name].shape:
                raise UpdateError(
                    f"update[{name!r}]",
                    expected=f"shape {tuple(parameters[name].shape)}",
                    found=f"{tuple(tensor.shape)}",
                    remedy="pass the model that this update was computed on",
                )
            if not is_plain_real(tensor):
                raise UpdateError(
                    f"update[{name!r}]",
                    expected="a dense tensor of real numbers of 16 to 64 bits",
                    found=f"{tensor.dtype}, {tensor.layout}",
                    remedy="convert the tensor, for example with tensor.float()",
                )
            if not bool(torch.isfinite(tensor).all()):
                raise UpdateError(
                    f"update[{name!r}]",
                    expected="finite values",
                    found=f"{int((~torch.isfinite(tensor)).sum())} NaN or infinite entries",
                    remedy="lower the learning rate or the strength of the defense, or check the loss",
                )

    def save(self, path: str | Path) -> None:
        """Write the update as a safetensors file, a format that cannot run code.

        Args:
            path: The file to write. An existing file is replaced.

        Raises:
            OutputError: The file cannot be written.
        """
        check_path(path, "update file", OutputError)
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}
        try:
            save_file(tensors, path, metadata={"kind": self.kind})
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"update file {str(path)!r}",
                expected="a file that can be written",
                found=reason(error),
                remedy="check the folder, its rights and its free space",
            ) from error

    @classmethod
    def load(cls, path: str | Path, *, kind: UpdateKind | None = None) -> Update:
        """Read an update from a safetensors file of real numbers of 16 to 64 bits.

        Args:
            path: The file to read.
            kind: "gradient" or "delta". By default the kind in the file's metadata, or "gradient"
                if there is none.

        Raises:
            UpdateError: `read_tensors` refuses the file, or the kind is unknown.
        """
        where = f"update file {str(path)!r}"
        tensors, metadata = read_tensors(
            path,
            where,
            error=UpdateError,
            types=REALS,
            remedy="save updates with Update.save or safetensors.torch.save_file",
        )
        stated = metadata.get("kind", "gradient") if kind is None else kind
        if stated not in get_args(UpdateKind):
            raise UpdateError(
                where,
                expected="kind 'gradient' or 'delta'",
                found=repr(stated),
                remedy="pass kind='gradient' or kind='delta', or write the kind into the file's metadata",
            )
        return cls(tensors, "delta" if stated == "delta" else "gradient")


def plain_update(update: Update, parameters: Mapping[str, Tensor]) -> Update:
    """Return a copy of an update that holds its values and nothing else.

    This copy leaves the client.

    Its tensors are contiguous. They have the order, the type and the device of `parameters`, which
    must have the same names.
    """
    tensors = {
        name: torch.empty_like(p, memory_format=torch.contiguous_format, requires_grad=False).copy_(
            update.tensors[name].detach()
        )
        for name, p in parameters.items()
    }
    return Update(tensors, update.kind)


def plain_kind(kind: UpdateKind) -> UpdateKind:
    """Return the kind of an update as a plain string. Return an unknown kind unchanged."""
    kinds: tuple[UpdateKind, ...] = ("gradient", "delta")
    return next((known for known in kinds if kind == known), kind)


def trainable(model: nn.Module) -> Tensors:
    """Return the parameters that local training updates, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
