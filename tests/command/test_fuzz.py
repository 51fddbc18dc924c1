"""Any file is either read or refused in one printable line, and nothing is written.

`benchmarks/fuzz.py` does the same with ten thousand mutants, each in its own process.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from torch import nn

import leakgauge as lg
from leakgauge.audit.resolve import ATTACKS, DEFENSES, resolve
from leakgauge.audit.specification import Source, parse, read
from leakgauge.models import load_weights

FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a temporary folder, work in it inside the block, and yield its path."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size in bytes and the time of the last change of each file and folder below `folder`."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


def survives(read_it: Callable[[], object], folder: Path) -> bool:
    """Call `read_it`. Return True if it succeeds, or False if it raises a UserError.

    Check that the error is one printable line, that there are no warnings, and that the folder is unchanged.
    """
    before = tree(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_it()
    except lg.UserError as error:
        line = str(error)
        assert line.isprintable(), line
        assert "expected" in line
        assert "found" in line
        assert tree(folder) == before
        return False
    assert tree(folder) == before
    return True


# Changes to the bytes of a file: place, as a fraction of the length in [0, 1], kind of change, new bytes, and
# new integer.
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["flip", "cut", "drop", "put", "end", "integer"]),
        st.binary(min_size=1, max_size=8),
        st.sampled_from([0, 1, 2**16 - 1, 2**31, 2**32 - 1, 2**63]),
    ),
    min_size=1,
    max_size=4,
)
Changes = list[tuple[float, str, bytes, int]]


def changed(content: bytes, changes: Changes) -> bytes:
    """Return the bytes of a file after some changes. See CHANGES."""
    data = bytearray(content)
    for fraction, kind, bits, number in changes:
        at = int(fraction * max(0, len(data) - 1))
        if kind == "flip" and data:
            data[at] ^= bits[0] or 1
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + len(bits)]
        elif kind == "put":
            data[at:at] = bits
        elif kind == "end":
            data += bits
        else:
            data[at : at + 4] = (number % 2**32).to_bytes(4, "little")
    return bytes(data)


# Specifications

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, -1, 10**9, 2**63 - 1]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [*ATTACKS, *DEFENSES, "mlp", "builtins:open", "sys:exit", "os:system", "/dev/zero"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
SMALL: dict[str, Any] = {
    "data": {"name": "npz", "path": "data.npz"},
    "model": {"name": "mlp", "width": 4, "depth": 2},
    "attacks": ["linear_layer", "dlg"],
    "defenses": ["none", "gaussian_noise"],
    "training": {"name": "fedavg", "epochs": 2, "batch_size": 2},
    "examples": [0, 1],
    "repeats": 1,
}


def to_toml(value: Any) -> str:
    """Return a value in TOML. None has no form in TOML, so it becomes the invalid text `None`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {to_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    """Return a text as a string of TOML. Characters above U+FFFF become "x"."""
    safe = (c if c.isalnum() else f"\\u{ord(c):04x}" if ord(c) < 65536 else "x" for c in text)
    return '"' + "".join(safe) + '"'


@pytest.fixture(scope="module")
def data() -> bytes:
    with temporary_folder() as folder:
        np.savez(folder / "data.npz", images=np.zeros((4, 4, 4), np.uint8), labels=np.arange(4) % 2)
        return (folder / "data.npz").read_bytes()


def read_specification(text: bytes, data: bytes, *assignments: str) -> None:
    """Read a specification and make its cases. Check that this succeeds or ends in one line.

    Args:
        text: The specification.
        data: The archive `data.npz` that the specification may name.
        assignments: Settings that change the specification, each as `section.key=value`.
    """
    with temporary_folder() as folder:
        (folder / "data.npz").write_bytes(data)
        (folder / "a.toml").write_bytes(text)
        survives(lambda: resolve(parse(Source(read("a.toml"), assignments))), folder)


@given(
    place=st.sampled_from(
        [(k,) for k in SMALL] + [(k, o) for k in SMALL for o in ("name", "steps")]
    ),
    value=TREES,
)
@FEW
def test_any_value_anywhere_in_a_specification(
    data: bytes, place: tuple[str, ...], value: Any
) -> None:
    sections = dict(SMALL)
    if len(place) == 1:
        sections[place[0]] = value
    elif isinstance(sections[place[0]], dict):
        sections[place[0]] = sections[place[0]] | {place[1]: value}
    else:
        sections[place[0]] = [{"name": "dlg", place[1]: value}]
    lines = (f"{key} = {to_toml(v)}" for key, v in sections.items())
    read_specification("\n".join(lines).encode("utf-8", "replace"), data)


@given(changes=CHANGES)
@FEW
def test_any_bytes_as_a_specification(data: bytes, changes: Changes) -> None:
    text = "\n".join(f"{key} = {to_toml(v)}" for key, v in SMALL.items()).encode()
    read_specification(changed(text, changes), data)


@given(
    path=st.lists(
        st.one_of(st.sampled_from([*SMALL, "0", "name", "cases"]), st.text()), max_size=4
    ),
    value=st.one_of(TREES.map(to_toml), st.text()),
)
@FEW
def test_any_setting(data: bytes, path: list[str], value: str) -> None:
    text = "\n".join(f"{key} = {to_toml(v)}" for key, v in SMALL.items()).encode()
    read_specification(text, data, f"{'.'.join(path)}={value}")


# Archives

ARRAYS = st.builds(
    lambda shape, kind, fill: np.full(shape, fill).astype(kind),
    st.lists(st.integers(0, 4), max_size=5).map(tuple),
    st.sampled_from(["u1", ">u2", "i8", "u8", "f2", "f4", ">f8", "c8", "?", "S3", "U3", "M8[s]"]),
    st.integers(0, 200),
)


def loads(content: bytes) -> bool:
    """Return whether an archive with this content is read. Otherwise, check that it is refused in one line."""
    with temporary_folder() as folder:
        (folder / "a.npz").write_bytes(content)
        return survives(lambda: lg.data.npz("a.npz"), folder)


@given(
    changes=st.one_of(st.just([]), CHANGES),
    arrays=st.dictionaries(
        st.sampled_from(["images", "labels", "inputs", "columns", "lows", "highs", "classes"]),
        ARRAYS,
        max_size=5,
    ),
    packed=st.booleans(),
)
@FEW
def test_any_archive(changes: Changes, arrays: dict[str, Any], packed: bool) -> None:
    with temporary_folder() as folder:
        (np.savez_compressed if packed else np.savez)(folder / "a.npz", **arrays)
        content = (folder / "a.npz").read_bytes()
    loads(changed(content, changes))


@given(changes=CHANGES)
@FEW
def test_any_bytes_of_an_archive(data: bytes, changes: Changes) -> None:
    assert loads(data)
    loads(changed(data, changes))


# Images


@given(
    mode=st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "1", "I;16", "CMYK"]),
    form=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "EPS"]),
    ending=st.sampled_from([".png", ".jpg", ".webp", ".bmp"]),
    changes=st.one_of(st.just([]), CHANGES),
)
@settings(FEW, max_examples=120)
def test_any_image(mode: str, form: str, ending: str, changes: Changes) -> None:
    with temporary_folder() as folder:
        try:
            Image.new(mode, (5, 4), 1).save(folder / f"a{ending}", form)
        except (OSError, KeyError, ValueError):  # Not every format can hold every mode.
            Image.new("RGB", (5, 4)).save(folder / f"a{ending}", "PNG")
        content = changed((folder / f"a{ending}").read_bytes(), changes)
        (folder / f"a{ending}").write_bytes(content)
        survives(lambda: lg.data.image_folder("."), folder)


# Updates and weights

TYPES = [torch.float32, torch.float16, torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64]


@given(
    kind=st.sampled_from(TYPES),
    shape=st.lists(st.integers(0, 3), max_size=4),
    name=st.one_of(st.sampled_from(["weight", "bias"]), st.text(max_size=5)),
    stated=st.sampled_from(["gradient", "delta", "", "x\x1b[2J"]),
    changes=st.one_of(st.just([]), CHANGES),
)
@settings(FEW, max_examples=120)
def test_any_tensors(
    kind: torch.dtype, shape: list[int], name: str, stated: str, changes: Changes
) -> None:
    model = nn.Linear(2, 3)
    held = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    held[name] = torch.ones(shape).to(kind)
    content = changed(save(held, metadata={"kind": stated}), changes)
    with temporary_folder() as folder:
        (folder / "a.safetensors").write_bytes(content)
        parameters = dict(model.named_parameters())
        survives(lambda: lg.Update.load("a.safetensors").check(parameters), folder)
        survives(lambda: load_weights(model, "a.safetensors"), folder)
