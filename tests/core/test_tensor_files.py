"""Foreign updates and weights: safetensors files, checked before a tensor is read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from leakgauge.core import ModelError, OutputError, Update, UpdateError, UserError, tensors
from leakgauge.models import load_weights

FINE = {"weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def laid_out(header: Any, content: bytes = bytes(16)) -> bytes:
    """Return a safetensors file with this header, given as a table or as its exact bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def weighed(path: Path) -> None:
    load_weights(nn.Linear(2, 2, bias=False), path)


READERS: list[tuple[Callable[[Path], object], type[UserError]]] = [
    (Update.load, UpdateError),
    (weighed, ModelError),
]


def refused(path: Path, *words: str, only: type[UserError] | None = None) -> None:
    """Assert that every reader refuses the file in one line that names it and says what to do."""
    for read, kind in READERS:
        if only not in (None, kind):
            continue
        with pytest.raises(kind) as caught:
            read(path)
        line = str(caught.value)
        assert line.isprintable()
        assert len(line) < 2000
        assert all(word in line for word in (path.name, *words)), line


def changed(**changes: Any) -> dict[str, Any]:
    return {"weight": FINE["weight"] | changes}


def test_the_layout_is_right(tmp_path: Path) -> None:
    path = tmp_path / "u.safetensors"
    path.write_bytes(laid_out(FINE))
    weighed(path)
    update = Update.load(path)
    assert update.kind == "gradient"
    assert torch.equal(update.tensors["weight"], torch.zeros(2, 2))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1),
        struct.pack("<Q", tensors.LONGEST_HEADER + 1) + bytes(100),
        struct.pack("<Q", 1000) + b"{}",
        laid_out(b"\xff\xfe{}"),
        laid_out(b"[" * 5000),
        laid_out(b'{"weight": ' * 5000),
        laid_out([]),
        laid_out({"weight": 3}),
        laid_out(changed(dtype="F99")),
        laid_out(changed(shape=[2**40, 2**40])),
        laid_out(changed(shape=[-2, 2])),
        laid_out(changed(shape=[2.5])),
        laid_out(changed(data_offsets=[0, 2**60])),
        laid_out(changed(data_offsets=[16, 0])),
        laid_out(FINE | {"bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
        laid_out(FINE, bytes(15)),
        laid_out(FINE, bytes(17)),
        laid_out(FINE | {"__metadata__": {"kind": 3}}),
        laid_out({"we\x1b[2J\n": {"dtype": "I3", "shape": [2, 2], "data_offsets": [0, 16]}}),
    ],
)
def test_files_that_are_broken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "u.safetensors"
    path.write_bytes(content)
    refused(path)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "u.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 2**32))
        stream.truncate(2**32 + 8)  # The file is sparse, so it takes no space.
    refused(path, "header of at most 16,777,216 bytes", "4,294,967,296")


def test_a_file_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "u.safetensors"
    path.write_bytes(laid_out(FINE))
    monkeypatch.setattr(tensors, "MOST_BYTES", 10)
    refused(path, "at most 10 bytes")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.uint16, torch.uint64]
)
def test_types_that_nothing_computes_in(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "u.safetensors"
    save_file({"weight": torch.zeros(2, 2).to(dtype)}, path)
    refused(path, "'weight' of type", "tensor.float()")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_an_update_is_of_real_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "u.safetensors"
    save_file({"weight": torch.zeros(2, 2).to(dtype)}, path)
    refused(path, "'weight' of type", "F32", only=UpdateError)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_real_numbers_of_every_width(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "u.safetensors"
    save_file({"weight": torch.full((2, 2), 0.5, dtype=dtype)}, path)
    assert Update.load(path).tensors["weight"].dtype == dtype
    weighed(path)


@pytest.mark.parametrize("kind", ["weights", "", "Gradient"])
def test_a_kind_that_is_none_is_not_taken_for_a_gradient(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "u.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path, metadata={"kind": kind})
    refused(path, repr(kind), "kind=", only=UpdateError)
    assert Update.load(path, kind="delta").kind == "delta"


def test_what_was_loaded_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "u.safetensors"
    save_file({"weight": torch.ones(2, 2)}, path)
    update = Update.load(path)
    path.write_bytes(b"")
    assert torch.equal(update.tensors["weight"], torch.ones(2, 2))


def test_pipes_folders_and_paths_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    refused(tmp_path / "p", "named pipe")
    (tmp_path / "f").mkdir()
    refused(tmp_path / "f", "a folder")
    for path in ("a\0b", "x" * 5000):
        for read, kind in READERS:
            with pytest.raises(kind) as caught:
                read(path)  # type: ignore[arg-type]
            assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.complex64),
        torch.zeros(2, 2).to(torch.float8_e4m3fn),
        torch.zeros(2, 2).to_sparse(),
    ],
)
def test_an_update_made_in_python_is_checked_too(tensor: torch.Tensor) -> None:
    with pytest.raises(UpdateError, match="dense tensor of real numbers"):
        Update({"weight": tensor}).check({"weight": torch.zeros(2, 2)})


def test_an_update_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can be written") as caught:
        Update({"weight": torch.zeros(2)}).save(tmp_path / "gone" / "u.safetensors")
    assert str(caught.value).isprintable()
