"""What a client shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leakgauge.core.errors import UpdateError

UpdateKind = Literal["gradient", "delta"]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """Named tensors shaped like the model's parameters: a gradient (FedSGD) or a weight difference."""

    tensors: Tensors
    kind: UpdateKind = "gradient"

    def map(self, function: Callable[[Tensor], Tensor]) -> Update:
        """The update with `function` applied to each tensor."""
        return Update({name: function(t) for name, t in self.tensors.items()}, self.kind)

    def detached(self) -> Update:
        """A copy that shares neither memory nor graph with this one."""
        return self.map(lambda t: t.detach().clone())

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
            if not bool(torch.isfinite(tensor).all()):
                raise UpdateError(
                    f"update[{name!r}]",
                    expected="finite values",
                    found=f"{int((~torch.isfinite(tensor)).sum())} NaN or infinite entries",
                    remedy="check the loss, the learning rate and the defense's strength",
                )

    def save(self, path: str | Path) -> None:
        """Write as safetensors, a format that cannot run code."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}
        save_file(tensors, path, metadata={"kind": self.kind})

    @classmethod
    def load(cls, path: str | Path, *, kind: UpdateKind | None = None) -> Update:
        """Read a safetensors file; its kind is what the file says, unless given.

        Raises UpdateError where it is missing or not safetensors.
        """
        try:
            tensors = load_file(path)
            if kind is None:
                with safe_open(path, "pt") as file:
                    told = (file.metadata() or {}).get("kind")
                kind = "delta" if told == "delta" else "gradient"
            return cls(tensors, kind)
        except (OSError, SafetensorError) as error:
            raise UpdateError(
                f"update file {str(path)!r}",
                expected="a readable .safetensors file",
                found=str(error),
                remedy="save updates with Update.save or safetensors.torch.save_file",
            ) from error


def trainable(model: nn.Module) -> Tensors:
    """The parameters that local training updates, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
