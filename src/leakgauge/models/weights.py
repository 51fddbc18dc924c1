"""Loading of weights, from safetensors only: a format that cannot run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from leakgauge.core import ModelError
from leakgauge.core.tensors import REALS, WHOLE, read_tensors
from leakgauge.data.files import find_file


def load_weights(model: nn.Module, path: str | Path, *, unread: tuple[str, ...] = ()) -> None:
    """Load a safetensors file into a model, in place: every key and shape must match.

    unread: beginnings of the names of tensors that the file may hold and the model does not want.
    Floating-point tensors are cast to the model's own type (a float16 file loads into a float32
    model). The path is looked up as given, then under $LEAKGAUGE_DATA and its weights folder.
    Raises ModelError for a file that `read_tensors` refuses, keys or shapes that differ, and
    non-finite values. The model is then as it was.
    """
    where = f"weights {str(path)!r}"
    read, _ = read_tensors(
        find_file(path, "weights", error=ModelError),
        where,
        error=ModelError,
        types=REALS | WHOLE,
        remedy="convert it with safetensors.torch.save_file(model.state_dict(), path)",
    )
    tensors = {name: tensor for name, tensor in read.items() if not name.startswith(unread)}
    expected: dict[str, Tensor] = model.state_dict()
    _check_keys(tensors, expected, where)
    _check_values(tensors, expected, where)
    model.load_state_dict(
        {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    )


def _check_keys(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        parts = [
            f"{len(n)} {kind} ({_few(n)})"
            for kind, n in (("missing", missing), ("unknown", unknown))
            if n
        ]
        raise ModelError(
            where,
            expected=f"the {len(expected)} tensors of the model",
            found=" and ".join(parts),
            remedy="build the model that these weights belong to, or rename the keys",
        )
    wrong = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if tensors[name].shape != tensor.shape
    ]
    if wrong:
        raise ModelError(
            where,
            expected="tensors of the model's shapes",
            found=_few(wrong),
            remedy="build the model with the number of classes, width and domain of these weights",
        )


def _check_values(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str
) -> None:
    kinds = [
        f"{name} {tensors[name].dtype} for {tensor.dtype}"
        for name, tensor in expected.items()
        if tensors[name].is_floating_point() != tensor.is_floating_point()
    ]
    broken = [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if kinds or broken:
        raise ModelError(
            where,
            expected="finite tensors of the model's kind (floating-point or integer)",
            found=_few(kinds) if kinds else f"NaN or infinite values in {_few(broken)}",
            remedy="save the weights again",
        )


def _few(names: list[str]) -> str:
    """The first three."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
