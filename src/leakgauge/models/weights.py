"""Loading of weights from safetensors files, a format that cannot run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from leakgauge.core import ModelError
from leakgauge.core.tensors import REALS, WHOLE, read_tensors
from leakgauge.data.files import find_file


def load_weights(model: nn.Module, path: str | Path, *, unread: tuple[str, ...] = ()) -> None:
    """Load the weights of a safetensors file into a model, in place.

    Every key and shape must match. Floating-point tensors are cast to the model's type, so that a
    float16 file loads into a float32 model. After an error the model is unchanged.

    Args:
        model: Model that gets the weights.
        path: Path of the file. It is looked up as given, then under $LEAKGAUGE_DATA and its
            folder `weights`.
        unread: Prefixes of names. Tensors in the file with these prefixes are ignored.

    Raises:
        ModelError: The file cannot be read, keys or shapes differ, or a value is not finite.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> import leakgauge as lg
        >>> model = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, f"{folder}/w.safetensors")
        ...     lg.models.load_weights(model, f"{folder}/w.safetensors")
        >>> model(torch.ones(1, 2)).item()
        2.0
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
    """Raise ModelError unless the tensors have the names and shapes of the model's."""
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
    """Raise ModelError unless the tensors are finite and, like the model's, floating-point or integer."""
    kinds = [
        f"{name} {tensors[name].dtype} for {tensor.dtype}"
        for name, tensor in expected.items()
        if tensors[name].is_floating_point() != tensor.is_floating_point()
    ]
    broken = [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if kinds or broken:
        raise ModelError(
            where,
            expected="finite tensors, each floating-point or integer as in the model",
            found=_few(kinds) if kinds else f"NaN or infinite values in {_few(broken)}",
            remedy="save the weights again",
        )


def _few(names: list[str]) -> str:
    """Return the first three names, with dots if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
