"""Unsafe NumPy archives are refused by their headers, before any data is unpacked."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leakgauge.core import Column, DataError, TableDomain
from leakgauge.data import dataset, members, npz

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
LABELS = np.array([0, 1])
ROWS = np.full((2, 3), 0.5)


def written(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array))
    return stream.getvalue()


def header(description: str, content: bytes = b"") -> bytes:
    """Return a file in the .npy format from the text of its header and its content."""
    text = description.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def declared(shape: str, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


def zipped(folder: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return folder / "a.npz"


def parts(**changes: Any) -> dict[str, bytes]:
    arrays = {"images": IMAGES, "labels": LABELS, **changes}
    return {
        f"{key}.npy": value if isinstance(value, bytes) else written(value)
        for key, value in arrays.items()
        if value is not None
    }


def patched(path: Path, local: int, central: int, value: int) -> None:
    """Write two bytes into the entry of the first file, in its local header and in the directory."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = content.index(signature) + offset
        content[at : at + 2] = struct.pack("<H", value)
    path.write_bytes(content)


def check_refused(path: Path, *words: str, **options: Any) -> str:
    """Check that the archive is refused in one line with its name and a remedy, and return the line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as caught:
            npz(path, **options)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 2000
    assert all(word in line for word in ("archive", path.name, *words)), line
    return line


class TestZip:
    def test_encrypted(self, tmp_path: Path) -> None:
        path = zipped(tmp_path, parts())
        patched(path, 6, 8, 0x1)
        check_refused(path, "'images' encrypted")

    @pytest.mark.parametrize("method", [6, 9, 12, 14, 93, 97, 99])
    def test_methods_that_numpy_does_not_write(self, tmp_path: Path, method: int) -> None:
        path = zipped(tmp_path, parts())
        patched(path, 8, 10, method)
        check_refused(path, f"'images' packed by method {method}")

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_methods_that_it_writes(self, tmp_path: Path, method: int) -> None:
        assert len(npz(zipped(tmp_path, parts(), method))) == 2

    def test_a_key_given_twice(self, tmp_path: Path) -> None:
        path = zipped(tmp_path, parts())
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images.npy", written(IMAGES))
        check_refused(path, "'images' more than once")

    def test_paths_within_write_nothing(self, tmp_path: Path) -> None:
        path = zipped(tmp_path, parts() | {"../escaped.npy": b"x", "/absolute": b"x"})
        before = sorted(tmp_path.parent.rglob("*"))
        assert len(npz(path)) == 2
        assert sorted(tmp_path.parent.rglob("*")) == before

    def test_a_bomb_is_refused_by_what_it_declares(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(members, "MOST_BYTES", 10_000)
        zeros = np.zeros((2, 100, 100), np.uint8)
        path = zipped(tmp_path, parts(images=zeros), zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 10_000
        check_refused(path, "arrays of 20,", "more than 10,000")
        path.write_bytes(bytes(10_001))
        check_refused(path, "of at most 10,000 bytes", "10,001 bytes")

    def test_a_bomb_that_declares_less_than_it_unpacks_to(self, tmp_path: Path) -> None:
        zeros = np.zeros((2, 1000, 1000), np.uint8)
        path = zipped(tmp_path, parts(images=zeros), zipfile.ZIP_DEFLATED)
        content = bytearray(path.read_bytes())
        claim = len(header(declared("(2, 3, 3)"))) + 18
        for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = content.index(signature) + offset
            content[at : at + 4] = struct.pack("<I", claim)
        path.write_bytes(content)
        check_refused(path)

    def test_more_files_than_an_archive_of_arrays_has(self, tmp_path: Path) -> None:
        path = zipped(tmp_path, {f"{i}.npy": b"" for i in range(10_001)})
        check_refused(path, "10,001 files")

    def test_a_wrong_checksum(self, tmp_path: Path) -> None:
        path = zipped(tmp_path, parts())
        content = bytearray(path.read_bytes())
        content[content.index(IMAGES.tobytes())] ^= 1
        path.write_bytes(content)
        check_refused(path, "CRC")

    def test_cut_anywhere(self, tmp_path: Path) -> None:
        whole = zipped(tmp_path, parts(), zipfile.ZIP_DEFLATED).read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / "a.npz").write_bytes(whole[:length])
            check_refused(tmp_path / "a.npz")

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "p.npz")
        check_refused(tmp_path / "p.npz", "named pipe")


class TestHeader:
    @pytest.mark.parametrize(
        ("shape", "words"),
        [
            ("(1125899906842624, 3, 3)", "in 18 bytes, not 10,133,099,161,583,616"),
            (f"({10**200}, 3, 3)", "in 18 bytes"),
            ("(-2, 3, 3)", "(-2, 3, 3)"),
            ("(2.0, 3, 3)", "shape"),
            ("(2, 3)", "in 18 bytes, not 6"),
            ("'x'", "shape"),
            ("(" * 300 + ")" * 300, ""),
            ("(" + "1," * 20_000 + ")", ""),
        ],
    )
    def test_shapes(self, tmp_path: Path, shape: str, words: str) -> None:
        member = header(declared(shape), IMAGES.tobytes())
        check_refused(zipped(tmp_path, parts(images=member)), words)

    @pytest.mark.parametrize(
        "text", ["", "{", "None", "[]", "{'descr': '|u1'}", "__import__('os')", "\xff", "{0: 1}"]
    )
    def test_headers_that_are_none(self, tmp_path: Path, text: str) -> None:
        check_refused(zipped(tmp_path, parts(images=header(text, IMAGES.tobytes()))))

    @pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY\x09\x00" + bytes(100)])
    def test_members_that_are_no_arrays(self, tmp_path: Path, content: bytes) -> None:
        check_refused(zipped(tmp_path, parts(images=content)))

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (IMAGES.astype(np.complex64), "complex64"),
            (IMAGES.astype("M8[s]"), "datetime64"),
            (IMAGES.astype("m8[s]"), "timedelta64"),
            (np.zeros((2, 3, 3), [("r", "u1"), ("g", "u1")]), "'images' of type"),
            (np.zeros((2, 3, 3), "V4"), "'images' of type"),
            (np.zeros((2, 3, 3), bool), "bool"),
            (np.zeros((2, 3, 3), "U3"), "<U3"),
            (np.zeros((2, 3, 3), np.int16), "int16"),
            (np.zeros((2, 0, 3), np.uint8), "none of its sides 0"),
        ],
    )
    def test_kinds_of_images(self, tmp_path: Path, array: Any, words: str) -> None:
        with pytest.raises(DataError) as caught:
            npz(zipped(tmp_path, parts(images=array)))
        assert words in str(caught.value)
        assert str(caught.value).isprintable()

    def test_any_order_of_bytes_and_axes(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(1).random((4, 3))
        labels = np.arange(4)
        plain = npz(zipped(tmp_path, parts(images=None, inputs=rows, labels=labels)))
        other = npz(
            zipped(
                tmp_path,
                parts(
                    images=None,
                    inputs=np.asfortranarray(rows).astype(">f8"),
                    labels=labels.astype(">i2"),
                ),
            )
        )
        assert torch.equal(plain.inputs, other.inputs)
        assert torch.equal(plain.targets, other.targets)

    def test_images_of_16_bits_keep_all_of_them(self, tmp_path: Path) -> None:
        deep = np.random.default_rng(1).integers(0, 65536, (2, 3, 3, 3)).astype(">u2")
        inputs = npz(zipped(tmp_path, parts(images=deep))).inputs
        expected = torch.from_numpy(deep.astype(np.float32) / 65535).permute(0, 3, 1, 2)
        assert torch.equal(inputs, expected)


class TestTables:
    def table(self, folder: Path, **changes: Any) -> Path:
        found = {
            "images": None,
            "inputs": ROWS,
            "lows": np.zeros(3),
            "highs": np.ones(3),
            **changes,
        }
        return zipped(folder, parts(**found))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"highs": np.array(["a", "b", "c"])}, "highs as numbers"),
            ({"highs": np.ones(3, complex)}, "complex128"),
            ({"lows": np.array(["a", "b", "c"])}, "lows as numbers"),
            ({"lows": np.zeros(3, bool)}, "lows as numbers"),
            ({"lows": np.full(3, np.nan)}, "finite low below"),
            ({"highs": np.full(3, np.inf)}, "finite low below"),
            ({"lows": np.full(3, -1e308), "highs": np.full(3, 1e308)}, "float32"),
            ({"lows": np.zeros(3), "highs": np.full(3, 1e-60)}, "float32"),
            ({"inputs": ROWS * 1e300, "highs": np.full(3, 1e308)}, "range of float32"),
            ({"inputs": ROWS.astype("c16")}, "complex128"),
            ({"columns": np.ones(3)}, "columns as text"),
            ({"columns": np.array([[b"\xff"] * 3])}, "columns as text"),
            ({"columns": np.array([b"\xff"] * 3)}, "UTF-8"),
            ({"columns": np.array([0x110005] * 3, np.uint32).view("U1")}, "UTF-8"),
            ({"integers": np.zeros(3)}, "integers as true or false"),
            ({"integers": np.array([0, 1, 2])}, "as true or false, or as 1 or 0"),
            ({"integers": np.ones(2, bool)}, "integers (2,)"),
            ({"inputs": np.full((2, 3), 2**24 + 1)}, "found 16,777,217"),
            ({"inputs": np.full((2, 3), -(2**63))}, "found -9,223,372,036,854,775,808"),
            ({"inputs": np.full((2, 3), 2**64 - 1, np.uint64)}, "which float32 holds exactly"),
            (
                {"inputs": ROWS / 3, "integers": np.ones(3, bool)},
                "whole numbers in integer columns",
            ),
            ({"classes": np.array(0)}, "classes as text"),
            ({"labels": np.array([0, 2**63], np.uint64)}, "63 bits"),
            ({"labels": np.array([0, 2**40])}, "65,536 classes"),
            ({"labels": np.array([[0], [1]], object)}, "'labels' pickled"),
        ],
    )
    def test_what_they_may_hold(self, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
        if changes.get("labels", LABELS).dtype == object:
            text = "{'descr': '|O', 'fortran_order': False, 'shape': (2, 1)}"
            changes = {"labels": header(text, b"\x80\x04N.")}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError) as caught:
                npz(self.table(tmp_path, **changes))
        assert words in str(caught.value)
        assert str(caught.value).isprintable()

    def test_columns_of_whole_numbers(self, tmp_path: Path) -> None:
        whole = np.array([True, False, True])
        rows = np.array([[0.0, 0.3, 1.0], [1.0, 0.7, 0.0]], dtype=np.float32)
        domain = npz(self.table(tmp_path, inputs=rows, integers=whole)).domain
        assert isinstance(domain, TableDomain)
        assert [column.integer for column in domain.columns] == whole.tolist()

    @pytest.mark.parametrize("kind", [np.int64, np.uint8, ">i4"])
    def test_whole_numbers_as_they_are_stored(self, tmp_path: Path, kind: Any) -> None:
        rows = np.array([[0, 3, 200], [1, 2, 7]]).astype(kind)
        whole, highs = np.array([1, 1, 0]), np.array([1, 3, 200])
        loaded = npz(self.table(tmp_path, inputs=rows, integers=whole, highs=highs))
        assert loaded.inputs.dtype == torch.float32
        assert loaded.inputs.tolist() == rows.tolist()
        assert isinstance(loaded.domain, TableDomain)
        assert [column.integer for column in loaded.domain.columns] == [True, True, False]

    def test_the_largest_whole_number(self, tmp_path: Path) -> None:
        rows, highs = np.full((2, 3), 2**24), np.full(3, 2**24)
        assert npz(self.table(tmp_path, inputs=rows, highs=highs)).inputs.max() == 2**24

    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path: Path) -> None:
        names = np.array(["\ufeffage".encode(), b"size", b"dose"])
        loaded = npz(self.table(tmp_path, columns=names, classes=np.array(["\ufeffno", "yes"])))
        assert [column.name for column in loaded.domain.columns] == ["age", "size", "dose"]  # type: ignore[attr-defined]
        assert loaded.class_names == ("no", "yes")

    @pytest.mark.parametrize("classes", [0, -1, dataset.MOST_CLASSES + 1])
    def test_a_number_of_classes_that_is_none(self, tmp_path: Path, classes: int) -> None:
        with pytest.raises(DataError, match=r"from 1 to 65,536 classes"):
            npz(self.table(tmp_path), classes=classes)


@pytest.mark.parametrize(("low", "high"), [(-3e38, 3e38), (0, 1e-50), (1e39, 2e39)])
def test_a_range_that_inputs_cannot_hold(low: float, high: float) -> None:
    with pytest.raises(DataError, match="float32 can hold"):
        Column("dose", low, high)


def test_an_archive_of_more_numbers_than_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path, parts())
    npz(path)
    monkeypatch.setattr(dataset, "memory", lambda: 1)
    check_refused(path, "at most 0 numbers")
