"""Reference data sets have their documented content. Loaders read good files and refuse bad ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from leakgauge import data
from leakgauge.core import Column, DataError, ImageDomain, SpecificationError, TableDomain

REFERENCE = {
    "photos": (30, (3, 32, 32), 10),
    "digits": (1797, (1, 8, 8), 10),
    "diabetes": (442, (10,), 2),
    "breast_cancer": (569, (30,), 2),
}


def fails_with(call: Callable[[], object], *words: str, kind: type[Exception] = DataError) -> None:
    """Check that the call fails with an error of one line, which has all the words."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_sets(name: str) -> None:
    count, shape, classes = REFERENCE[name]
    before = torch.random.get_rng_state()
    dataset = getattr(data, name)()
    assert torch.equal(before, torch.random.get_rng_state())
    assert (dataset.name, len(dataset), dataset.classes) == (name, count, classes)
    assert tuple(dataset.inputs.shape) == (count, *shape)
    assert dataset.domain.shape == shape
    assert dataset.inputs.dtype == torch.float32
    assert dataset.targets.dtype == torch.int64
    assert set(dataset.targets.tolist()) == set(range(classes))
    assert len(set(dataset.class_names)) == classes
    assert dataset.licence not in ("", "unknown")
    unit = dataset.domain.to_unit(dataset.inputs)
    assert unit.min() >= 0
    assert unit.max() <= 1
    # The data are neither constant nor confined to a small part of the public range.
    assert (unit.amax(0) - unit.amin(0)).flatten().max() > 0.5


def test_photographs_are_distinct_and_in_rounds() -> None:
    photos = data.photos()
    assert photos.targets.tolist() == [*range(10)] * 3
    flat = photos.inputs.flatten(1)
    apart = torch.cdist(flat, flat) + 100 * torch.eye(30)
    assert apart.min() > 1.0
    # Except for the gray photographer, all are in color, so their channels differ. Each has contrast.
    colored = photos.targets != photos.class_names.index("photographer")
    spread = (photos.inputs - photos.inputs.mean(1, keepdim=True)).abs().amax((1, 2, 3))
    assert spread[colored].min() > 0.05
    assert flat.std(1).min() > 0.03
    assert "CC0" in photos.licence
    assert all(name in photos.licence for name in photos.class_names)


def test_photographs_scale() -> None:
    large, small = data.photos(64), data.photos(16)
    assert large.domain == ImageDomain(3, 64, 64)
    shrunk = torch.nn.functional.avg_pool2d(large.inputs, 4)
    assert (shrunk - small.inputs).abs().mean() < 0.02


@pytest.mark.parametrize("size", [7, 513])
def test_photographs_of_a_wrong_size(size: int) -> None:
    fails_with(lambda: data.photos(size), "8 to 512", str(size))


def test_digits_are_scikit_learns() -> None:
    digits = data.digits()
    # The first record is the digit zero that the documentation of scikit-learn prints.
    assert (digits.inputs[0, 0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert digits.targets[:3].tolist() == [0, 1, 2]
    assert digits.inputs.max() == 1.0


def test_diabetes_is_in_raw_units_and_split_at_the_median() -> None:
    diabetes = data.diabetes()
    first = [59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87]
    torch.testing.assert_close(diabetes.inputs[0], torch.tensor(first))
    assert diabetes.targets[:3].tolist() == [
        1,
        0,
        1,
    ]  # The progressions are 151, 75 and 141, and the median is 140.5.
    assert diabetes.targets.sum() == 221
    assert isinstance(diabetes.domain, TableDomain)
    columns = diabetes.domain.columns
    assert [c.unit for c in columns[:4]] == ["years", "code", "kg/m^2", "mm Hg"]


@pytest.mark.parametrize("name", ["diabetes", "breast_cancer"])
def test_decimals_lose_less_than_a_thousandth_of_the_range(name: str) -> None:
    dataset = getattr(data, name)()
    for column, values in zip(dataset.domain.columns, dataset.inputs.T, strict=True):
        rounded = (values.double() * 10**column.decimals).round() / 10**column.decimals
        assert (rounded - values).abs().max() / (column.high - column.low) < 1e-3, column.name


def test_breast_cancer_has_its_class_balance() -> None:
    dataset = data.breast_cancer()
    assert dataset.class_names == ("malignant", "benign")
    assert dataset.targets.bincount().tolist() == [212, 357]
    assert dataset.domain.columns[20].name == "worst radius"


def test_loaders_are_the_names_a_specification_may_use() -> None:
    assert set(data.LOADERS) < set(data.__all__)
    assert all(callable(getattr(data, name)) for name in data.LOADERS)


# Dataset


def dataset(**changes: Any) -> data.Dataset:
    fields: dict[str, Any] = {
        "name": "x",
        "inputs": torch.full((2, 1, 2, 2), 0.5),
        "targets": torch.tensor([0, 1]),
        "domain": ImageDomain(1, 2, 2),
        "classes": 2,
        "class_names": ("a", "b"),
    }
    return data.Dataset(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": torch.zeros(2, 1, 2, 3)}, "(2, 1, 2, 3)"),
        ({"inputs": torch.zeros(0, 1, 2, 2)}, "at least one example"),
        ({"inputs": torch.zeros(2, 1, 2, 2).double()}, "torch.float64"),
        ({"inputs": torch.full((2, 1, 2, 2), float("nan"))}, "8 NaN"),
        ({"inputs": torch.full((2, 1, 2, 2), 255.0)}, "scale images to [0, 1]"),
        ({"targets": torch.tensor([0, 1, 1])}, "(3,)"),
        ({"targets": torch.tensor([0.0, 1.0])}, "torch.float32"),
        ({"targets": torch.tensor([0, 2])}, "0 to 1"),
        ({"targets": torch.tensor([-1, 1])}, "-1"),
        ({"class_names": ("a",)}, "2 class names"),
    ],
)
def test_a_dataset_keeps_its_contract(changes: dict[str, Any], words: str) -> None:
    assert len(dataset()) == 2
    fails_with(lambda: dataset(**changes), "'x'", words)


# npz


def archive(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_npz_images_become_channels_first_in_unit_range(tmp_path: Path, channels: int) -> None:
    images = pixels(5, 4, 6, channels)
    path = archive(tmp_path, images=images, labels=np.array([0, 1, 2, 1, 0]))
    loaded = data.npz(path)
    assert loaded.domain == ImageDomain(channels, 4, 6)
    assert loaded.inputs[3, channels - 1, 2, 5] == pytest.approx(
        images[3, 2, 5, channels - 1] / 255
    )
    assert (loaded.classes, loaded.name) == (3, "a")
    assert data.npz(path, classes=7).classes == 7


def test_npz_gray_images_without_a_channel_axis(tmp_path: Path) -> None:
    images = pixels(2, 4, 6)
    path = archive(tmp_path, images=images, labels=np.array([[0], [1]]), classes=["no", "yes"])
    loaded = data.npz(path)
    assert loaded.domain == ImageDomain(1, 4, 6)
    assert torch.equal((loaded.inputs[:, 0] * 255).round().byte(), torch.from_numpy(images))
    assert loaded.class_names == ("no", "yes")


def test_npz_splits(tmp_path: Path) -> None:
    arrays = {}
    for split, count in (("train_", 2), ("test_", 3), ("val_", 4)):
        arrays |= {split + "images": pixels(count, 2, 2), split + "labels": np.zeros(count, int)}
    path = archive(tmp_path, **arrays)
    assert [len(data.npz(path, split)) for split in ("train", "test", "val")] == [2, 3, 4]
    assert len(data.npz(path)) == 3
    del arrays["test_images"]
    path = archive(tmp_path, **arrays)
    assert len(data.npz(path)) == 2
    fails_with(lambda: data.npz(path, "test"), "test_images", "train_images")
    path = archive(tmp_path, images=pixels(9, 2, 2), labels=np.zeros(9, int), **arrays)
    assert len(data.npz(path)) == 9


def test_npz_tables(tmp_path: Path) -> None:
    rows = np.array([[20.0, 1.5], [30.0, 1.9]])
    path = archive(
        tmp_path,
        inputs=rows,
        labels=np.array([1, 0]),
        columns=np.array(["age", "height"]),
        lows=np.array([0, 1]),
        highs=np.array([100, 2.5]),
    )
    loaded = data.npz(path)
    assert loaded.domain == TableDomain((Column("age", 0, 100), Column("height", 1, 2.5)))
    torch.testing.assert_close(loaded.inputs, torch.from_numpy(rows).float())
    unit = data.npz(archive(tmp_path, inputs=rows / 40, labels=np.array([1, 0]))).domain
    assert unit == TableDomain.from_ranges(["column 0", "column 1"], [0, 0], [1, 1])


def test_npz_is_found_under_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data", images=pixels(2, 2, 2), labels=np.zeros(2, int))
    monkeypatch.delenv("LEAKGAUGE_DATA", raising=False)
    fails_with(lambda: data.npz("a.npz"), "'a.npz'", "LEAKGAUGE_DATA")
    monkeypatch.setenv("LEAKGAUGE_DATA", str(tmp_path))
    assert len(data.npz("a.npz")) == 2
    archive(tmp_path, images=pixels(3, 2, 2), labels=np.zeros(3, int))
    assert len(data.npz("a.npz")) == 3
    fails_with(lambda: data.npz(tmp_path / "b.npz"), "b.npz", "check the path")


class Pickled:
    """An object that runs code if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the pickle was loaded",))


FINE = {"images": pixels(2, 3, 3), "labels": np.array([0, 1])}
ROWS = {"inputs": np.full((2, 3), 9.0), "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "images and labels"),
        ({"images": FINE["images"]}, "images and labels"),
        ({**FINE, "images": FINE["images"].astype(np.float32)}, "float32"),
        ({**FINE, "images": pixels(2, 3, 3, 7)}, "(2, 3, 3, 7)"),
        ({**FINE, "images": pixels(2, 3)}, "(2, 3)"),
        ({**FINE, "images": pixels(4, 3, 3)}, "one label for each of 4 examples"),
        ({**FINE, "images": pixels(0, 3, 3), "labels": np.array([], int)}, "at least one example"),
        ({**FINE, "labels": np.array([0.0, 1.0])}, "labels as integers"),
        ({**FINE, "labels": np.array([[0, 1], [1, 0]])}, "(2, 2)"),
        ({**FINE, "labels": np.array([-1, 0])}, "from -1"),
        ({**FINE, "images": np.array([Pickled()], dtype=object)}, "pickled"),
        (ROWS, "lows and highs"),
        ({**ROWS, "lows": np.zeros(3)}, "lows and highs"),
        ({**ROWS, "lows": np.zeros(3), "highs": np.ones(3)}, "widen the public range"),
        ({**ROWS, "lows": np.zeros(2), "highs": np.ones(3)}, "lows (2,)"),
        ({**ROWS, "lows": np.ones(3), "highs": np.ones(3)}, "low below"),
        ({**ROWS, "inputs": np.ones((2, 3), bool)}, "found bool"),
        ({**ROWS, "inputs": np.full((2, 3), np.nan)}, "NaN"),
    ],
)
def test_npz_with_wrong_contents(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    fails_with(lambda: data.npz(archive(tmp_path, **arrays)), words)


def test_npz_files_that_are_none(tmp_path: Path) -> None:
    good = archive(tmp_path, **FINE).read_bytes()
    for content in (b"", b"neither zip nor npy", good[: len(good) // 2]):
        (tmp_path / "b.npz").write_bytes(content)
        fails_with(lambda: data.npz(tmp_path / "b.npz"), "b.npz", "NumPy archive")
    np.save(tmp_path / "c.npy", FINE["images"])
    fails_with(lambda: data.npz(tmp_path / "c.npy"), "a single array")
    fails_with(lambda: data.npz(tmp_path), "NumPy archive")


# image_folder


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode in ("L", "I;16") else (shade, 100, 200)[: len(mode)]).save(
        path
    )


def test_image_folder_with_classes_in_sorted_order(tmp_path: Path) -> None:
    for i, name in enumerate(("dog/b.png", "cat/z.PNG", "dog/a.bmp", "cat/y.webp", "cat/x.jpg")):
        picture(tmp_path / name, shade=10 * i)
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    loaded = data.image_folder(tmp_path)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.targets.tolist() == [0, 0, 0, 1, 1]
    assert loaded.domain == ImageDomain(3, 4, 6)
    lossless = (loaded.inputs[[2, 3, 4], 0, 0, 0] * 255).round().tolist()
    assert lossless == [10, 20, 0]
    assert loaded.inputs[4, 2, 3, 5] == pytest.approx(200 / 255)


def test_image_folder_flat_and_gray(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", mode="L", shade=51)
    picture(tmp_path / "a.png", mode="L", shade=102)
    loaded = data.image_folder(tmp_path)
    assert loaded.domain == ImageDomain(1, 4, 6)
    assert loaded.class_names == (tmp_path.name,)
    torch.testing.assert_close(loaded.inputs[:, 0, 0, 0], torch.tensor([0.4, 0.2]))
    picture(tmp_path / "c.png")
    assert data.image_folder(tmp_path).domain == ImageDomain(3, 4, 6)


def test_image_folder_crops_and_resizes_when_asked(tmp_path: Path) -> None:
    wide = Image.new("L", (30, 10), 0)
    wide.paste(255, (10, 0, 20, 10))
    wide.save(tmp_path / "a.png")
    picture(tmp_path / "b.png", (5, 9), mode="L")
    fails_with(lambda: data.image_folder(tmp_path), "30x10", "5x9", "size=")
    loaded = data.image_folder(tmp_path, size=8)
    assert loaded.domain == ImageDomain(1, 8, 8)
    # A center crop keeps only the white middle. The filter reaches a little over its edge.
    assert loaded.inputs[0].min() > 0.95


def test_image_folders_that_cannot_be_read(tmp_path: Path) -> None:
    fails_with(lambda: data.image_folder(tmp_path / "none"), "existing file or folder")
    fails_with(lambda: data.image_folder(tmp_path), "expected files ending in", ".png")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    fails_with(lambda: data.image_folder(tmp_path), "a.png", "readable image")
    fails_with(lambda: data.image_folder(tmp_path / "a.png"), "a folder")
    picture(tmp_path / "a.png")
    fails_with(lambda: data.image_folder(tmp_path, size=0), "size from 1 to 2,048 pixels")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:-40])
    fails_with(lambda: data.image_folder(tmp_path), "a.png", "readable image")
    picture(tmp_path / "class" / "b.png")
    fails_with(lambda: data.image_folder(tmp_path), "beside 1 subfolders")


# custom

OWN = """
import torch
from leakgauge.core import TableDomain
from leakgauge.data import Dataset, digits

number = 3
images = torch.full((4, 3, 2, 2), 0.5)
labels = torch.tensor([0, 2, 1, 2])
whole = digits

def pair(): return images, labels
def arrays(): return images.double().numpy(), labels.int().numpy()
def sized(*, count): return images[:count], labels[:count]
domain = TableDomain.from_ranges("ab", [0, 0], [9, 9])
def bare_table(): return torch.full((2, 2), 5.0), labels[:2]
def table(): return *bare_table(), domain
def needs(path): return images, labels
def text(): return "images"
def single(): return (images,)
def strings(): return "images", "labels"
def sparse(): return images.to_sparse(), labels
def meta(): return images.to("meta"), labels
def complex_(): return images.to(torch.complex64), labels
def wide(): return images.numpy().astype("longdouble"), labels
def swapped(): return images.numpy().astype(">f4"), labels.numpy().astype(">i2")
def bytes_(): return (images * 255).byte(), labels
def float_labels(): return images, labels.float()
def no_domain(): return images, labels, "image"
def bright(): return images * 255, labels
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_examples.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def f(:")
    (tmp_path / "own_lacking.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_examples", "own_broken", "own_lacking"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_examples"


def test_custom_factories(module: str) -> None:
    pair = data.custom(f"{module}:pair")
    assert pair.domain == ImageDomain(3, 2, 2)
    assert (len(pair), pair.classes) == (4, 3)
    arrays = data.custom(f"{module}:arrays")
    assert torch.equal(arrays.inputs, pair.inputs)
    assert torch.equal(arrays.targets, pair.targets)
    swapped = data.custom(f"{module}:swapped")
    assert torch.equal(swapped.inputs, pair.inputs)
    assert torch.equal(swapped.targets, pair.targets)
    assert len(data.custom(f"{module}:sized", count=2)) == 2
    assert data.custom(f"{module}:whole").name == "digits"
    table: Tensor = data.custom(f"{module}:table").inputs
    assert table.shape == (2, 2)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("own_examples", "package.module:name"),
        (":pair", "package.module:name"),
        ("own_examples:", "package.module:name"),
        ("own_nowhere:pair", "own_nowhere"),
        ("own_broken:pair", "own_broken"),
        ("own_lacking:pair", "a_package_that_is_not_there"),
        ("own_examples:pear", "'pear'"),
        ("own_examples:number", "type int"),
        ("own_examples:needs", "'path'"),
    ],
)
def test_custom_references_that_name_nothing(module: str, reference: str, words: str) -> None:
    fails_with(lambda: data.custom(reference), words, kind=SpecificationError)


def test_custom_options_that_do_not_fit(module: str) -> None:
    fails_with(lambda: data.custom(f"{module}:pair", count=2), "count", kind=SpecificationError)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("text", "type str"),
        ("single", "a tuple of 1"),
        ("strings", "tensors or numeric arrays"),
        ("sparse", "dense tensors"),
        ("meta", "dense tensors"),
        ("complex_", "floating-point inputs"),
        ("wide", "numeric arrays"),
        ("bytes_", "divide 8-bit values by 255"),
        ("float_labels", "integer targets"),
        ("no_domain", "a Domain"),
        ("bare_table", "TableDomain.from_ranges"),
        ("bright", "scale images"),
    ],
)
def test_custom_factories_that_return_something_else(module: str, factory: str, words: str) -> None:
    fails_with(lambda: data.custom(f"{module}:{factory}"), words)


def test_an_empty_path_is_no_file() -> None:
    fails_with(lambda: data.npz(""), "expected a path; found an empty text")


def test_what_was_found_is_told_in_a_line_that_can_be_read() -> None:
    error = DataError("x", expected="less", found="a" * 10**6, remedy="shorten it")
    assert len(str(error)) < 800
