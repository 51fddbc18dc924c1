"""What a client shares."""

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
Tensors = dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Update(Summarized):
    """Named tensors shaped like the model's parameters: a gradient (FedSGD) or a weight difference."""

    tensors: Tensors
    kind: UpdateKind = "gradient"

    def __post_init__(self) -> None:
        """Raise UpdateError unless names are text, values tensors, and the kind one of UpdateKind."""
        # A subclass of str can carry more than its text.
        object.__setattr__(self, "kind", kind_of(self.kind))
        check_fields(self, UpdateError)

    def map(self, function: Callable[[Tensor], Tensor]) -> Update:
        """The update with `function` applied to each tensor."""
        return Update({name: function(t) for name, t in self.tensors.items()}, self.kind)

    def detached(self) -> Update:
        """A copy that shares neither memory nor graph with this one."""
        return self.map(lambda t: t.detach().clone())

    @property
    def like(self) -> Tensor:
        """Return one of the tensors: what is computed beside an update takes its type and device."""
        return next(iter(self.tensors.values()))

    @property
    def size(self) -> int:
        """Number of scalars."""
        return sum(t.numel() for t in self.tensors.values())

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise UpdateError unless the tensors match `parameters` in name and shape and are finite."""
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
                    remedy="convert it, for example with tensor.float()",
                )
            if not bool(torch.isfinite(tensor).all()):
                raise UpdateError(
                    f"update[{name!r}]",
                    expected="finite values",
                    found=f"{int((~torch.isfinite(tensor)).sum())} NaN or infinite entries",
                    remedy="check the loss, the learning rate and the defense's strength",
                )

    def save(self, path: str | Path) -> None:
        """Write as safetensors, a format that cannot run code. Raises OutputError where it cannot."""
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
        """Read a safetensors file of real numbers of 16 to 64 bits.

        kind: "gradient" or "delta"; by default what the file says, and a gradient where it says
        nothing. Raises UpdateError for a file that `read_tensors` refuses, and for an unknown kind.
        """
        where = f"update file {str(path)!r}"
        tensors, metadata = read_tensors(
            path,
            where,
            error=UpdateError,
            types=REALS,
            remedy="save updates with Update.save or safetensors.torch.save_file",
        )
        told = metadata.get("kind", "gradient") if kind is None else kind
        if told not in get_args(UpdateKind):
            raise UpdateError(
                where,
                expected="kind 'gradient' or 'delta'",
                found=repr(told),
                remedy="pass kind=..., or write it into the file's metadata",
            )
        return cls(tensors, "delta" if told == "delta" else "gradient")


def plain_update(update: Update, parameters: Mapping[str, Tensor]) -> Update:
    """Return a copy of an update that holds its values alone, so that nothing else leaves a client.

    Its tensors are contiguous, in the order, the type and on the device of `parameters`, whose names they have.
    """
    tensors = {
        name: torch.empty_like(p, memory_format=torch.contiguous_format, requires_grad=False).copy_(
            update.tensors[name].detach()
        )
        for name, p in parameters.items()
    }
    return Update(tensors, update.kind)


def kind_of(kind: UpdateKind) -> UpdateKind:
    """Return the kind of an update as a plain string. Another value is returned as it is."""
    kinds: tuple[UpdateKind, ...] = ("gradient", "delta")
    return next((known for known in kinds if kind == known), kind)


def trainable(model: nn.Module) -> Tensors:
    """The parameters that local training updates, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
